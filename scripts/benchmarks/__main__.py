"""Measures the engine and its peers side by side: `scripts/bench`.

Contenders take turns (A B C, A B C, ...), and the figures are medians. CPU time, user and system, is of the whole
worker tree, read from /proc: it says more than wall time on a machine that has other work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import alone
import readme
import report
import versus
from contenders import CONTENDERS, Contender
from servers import Server, is_there, rabbitmq_server, redis_server
from versus import Figures, Servers

RESULTS = Path(__file__).resolve().parent / "results"
QUICK = ("drain", "drain, results", "round trip", "idle, 2 children")
"""What is measured with --quick, unless others are named."""
Measure = Callable[[Contender, Servers], Figures]


def main() -> int:
    """Does what the command line asks for."""
    options = _options()
    # Servers and workers are ended on the way out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    started = time.monotonic()
    failures: list[str] = []
    with contextlib.ExitStack() as stack:
        contenders = [one for one in CONTENDERS if _takes_part(one, options)]
        servers = _servers(stack, contenders)
        results = report.head(servers, Path(options.output) if options.add else None)
        for name, (measure, rounds, takes) in _scenarios(options).items():
            print(f"\n{name}", file=sys.stderr)
            chosen = [one for one in contenders if takes(one)]
            found = _take_turns(measure, chosen, servers, rounds, failures)
            print(report.table(name, found), flush=True)
            report.add(results, name, found)
            # At once: the next scenario may be interrupted.
            _keep(results, Path(options.output), write=options.readme)
    print(f"\n{time.monotonic() - started:.0f} s, written to {options.output}", file=sys.stderr)
    print(*failures, sep="\n", file=sys.stderr)
    return 1 if failures else 0


def _take_turns(
    measure: Measure, contenders: list[Contender], servers: Servers, rounds: int, failures: list[str]
) -> dict[str, dict[str, list[float]]]:
    """Returns all figures. Who fails is out of this scenario, without figures."""
    found: dict[str, dict[str, list[float]]] = {one.name: {} for one in contenders}
    for number in range(rounds):
        for contender in contenders:
            if contender.name not in found:
                continue
            print(f"  {number + 1}/{rounds} {contender.name}", file=sys.stderr)
            try:
                for figure, value in measure(contender, servers).items():
                    found[contender.name].setdefault(figure, []).append(value)
            except RuntimeError as error:
                failures.append(str(error))
                del found[contender.name]
    return found


def _scenarios(options: argparse.Namespace) -> dict[str, tuple[Measure, int, Callable[[Contender], bool]]]:
    """Returns by name what is measured, how often, and who takes part."""
    scale = 0.2 if options.quick else 0.5 if options.summary else 1.0
    few, many = (1, 1) if options.quick else (1, 3) if options.summary else (options.rounds, options.rounds + 2)
    seconds = 1 if options.quick else 3

    def everybody(one: Contender) -> bool:
        return True

    def clients(one: Contender) -> bool:
        return one.latency or one.module == "floor"

    def workers(one: Contender) -> bool:
        return one.latency

    found: dict[str, tuple[Measure, int, Callable[[Contender], bool]]] = {
        "drain": (partial(versus.drain, keep=False, scale=scale), many, everybody),
        "drain, results": (partial(versus.drain, keep=True, scale=scale), many, everybody),
        "enqueue": (partial(versus.enqueue, scale=scale), few, clients),
        "round trip": (partial(versus.round_trip, scale=scale), few, workers),
        "one way": (partial(versus.one_way, scale=scale), few, workers),
        "idle, 2 children": (partial(versus.idle, children=2, seconds=seconds), few, workers),
        "start": (versus.start, many, lambda one: one.latency and not one.worker_first),
    }
    rest = {"idle, 8 children": (partial(versus.idle, children=8, seconds=seconds), few, workers)}
    rest |= alone.scenarios(scale, few, 2 if options.summary else many, full=options.full)
    if options.summary:
        return {name: one for name, one in (found | rest).items() if name in readme.SCENARIOS}
    if options.scenarios:
        return {name: one for name, one in (found | rest).items() if any(map(name.startswith, options.scenarios))}
    return {name: found[name] for name in QUICK} if options.quick else found | rest


def _takes_part(contender: Contender, options: argparse.Namespace) -> bool:
    if contender.broker == "rabbitmq" and not is_there("rabbitmq-server"):
        return False
    if options.contenders:
        return any(wanted in contender.name for wanted in options.contenders)
    if options.summary:
        return contender.name in readme.ROWS
    return contender.quick or not options.quick


def _servers(stack: contextlib.ExitStack, contenders: list[Contender]) -> dict[str, Server]:
    folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="engine-bench-"))) for _ in range(2)]
    servers = {"redis": stack.enter_context(redis_server(folders[0]))}
    if any(one.broker == "rabbitmq" for one in contenders):
        servers["rabbitmq"] = stack.enter_context(rabbitmq_server(folders[1]))
    return servers


def _keep(results: report.Results, folder: Path, *, write: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (folder / "figures.md").write_text(report.markdown(results))
    report.draw(results, folder)
    if write:
        readme.write(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a little of the most important: under two minutes")
    parser.add_argument("--summary", action="store_true", help="what the README shows, in less than 15 minutes")
    parser.add_argument("--full", action="store_true", help="with 1,000,000 waiting messages")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender (drains and starts: two more)")
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="only those whose name begins so")
    parser.add_argument("--contenders", nargs="+", metavar="PART", help="only those whose name contains this")
    parser.add_argument("--add", action="store_true", help="keep the other figures of the run before")
    parser.add_argument("--readme", action="store_true", help="put the figures into README.md too")
    parser.add_argument("--output", default=str(RESULTS), help="folder for figures and chart")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
