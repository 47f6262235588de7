"""Kills the engine's processes, and its broker, at random while it works; one line says what became of the tasks.

    scripts/chaos --transport redis --seconds 60 --seed 1 --kill child,dispatcher,tree,broker

The exit status is 1 when a task was lost, or started again for no reason that is on record. The folder of such a run
(ledger, log, data) is kept, and named.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from engine.errors import ConfigError
from engine.testing.faults.chaos import KINDS, Chaos, Plan


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--transport", default="sqlite", help="memory, sqlite, redis or rabbitmq")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long it kills, at least: until --tasks are sent"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kill", default="child", help=f"any of {','.join(KINDS)}; none: nothing")
    parser.add_argument("--tasks", type=int, default=10_000, help="how many are sent, at least")
    parser.add_argument("--children", type=int, default=8)
    parser.add_argument("--lasts", type=float, default=0.02, help="seconds that a task lasts")
    parser.add_argument("--every", type=float, default=0.3, help="seconds between two kills of processes")
    parser.add_argument("--broker-every", type=float, default=2.0, help="seconds between two kills of the broker")
    parser.add_argument("--broker-down", type=float, default=0.0, help="seconds before it is started again")
    parser.add_argument("--ahead", type=int, default=400, help="tasks that are kept waiting")
    parser.add_argument("--points", default="", help="as ENGINE_TEST_POINTS: settle.after:kill:3,...")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the run in any case")
    options = vars(parser.parse_args())
    kills = [kind for kind in options.pop("kill").split(",") if kind != "none"]
    keep = options.pop("keep")
    folder = Path(tempfile.mkdtemp(prefix="engine-chaos-")).resolve()
    length = f"{options['seconds']:g} s and {options['tasks']:,} tasks"
    print(
        f"killing {', '.join(kills) or 'nothing'} for at least {length}; the log is {folder}/engine.log",
        file=sys.stderr,
    )
    try:
        verdict = Chaos(Plan(kills=kills, **options), folder).run()
    except ConfigError as error:
        shutil.rmtree(folder)
        print(f"scripts/chaos: {error}", file=sys.stderr)
        return 64
    print(f"{options['transport']}, seed {options['seed']}: {verdict.line()}")
    if verdict.ok and not keep:
        shutil.rmtree(folder)
    else:
        print(f"the run's ledger, log and data: {folder}", file=sys.stderr)
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
