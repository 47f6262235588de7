"""Takes the broker away from a working engine, and measures what is felt of it; one line for each outage.

    scripts/outages --transport redis --down 0.2 3 10 60 --full 30

Killed (SIGKILL) for so many seconds; and, of Redis, full for so many. The exit status is 1 when a task was lost, ran
twice, or a process of the engine ended.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from engine import Engine
from engine.app.results import AsyncResult
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError
from engine.testing.faults.brokers import Broker, Redis, broker
from engine.testing.faults.ledger import Ledger
from engine.testing.harness import EngineProcess, toml, wait_for

TASKS = 300
LASTS = 0.02


class Outage:
    """One engine on one broker of its own, with work waiting."""

    def __init__(self, transport: str, folder: Path, tasks: int = TASKS) -> None:
        with ExitStack() as started:
            self.broker: Broker = broker(transport, folder)
            started.callback(self.broker.close)
            self.broker.start()
            url, results = self.broker.url, self.broker.results
            self.engine = EngineProcess(
                folder, toml("engine.testing.faults.tasks", broker=url, results=results, concurrency=2)
            )
            started.callback(self.engine.close)
            self.engine.start()
            self.before = self._pids()
            self.ledger = Ledger(folder)
            self.client = Engine("outage", broker=url, backend=results)
            started.callback(self.client.close)
            self.sent = self._send(tasks)
            wait_for(lambda: len(self.ledger.read().ends) > TASKS // 10, "some to end")
            self._started = started.pop_all()

    def killed_for(self, seconds: float) -> str:
        """Kills the broker and starts it again; returns what was felt."""
        mark = len(self.engine.log)
        self.broker.kill()
        time.sleep(seconds)
        self.broker.start()
        back = time.monotonic()
        first = wait_for(lambda: self._start_after(back), "a task to start", 60) - back
        return self._account(f"killed for {seconds:g} s: first task {first * 1000:.0f} ms after it was back", mark)

    def full_for(self, seconds: float) -> str:
        """Makes Redis refuse what takes memory."""
        assert isinstance(self.broker, Redis), "checked by main"
        mark, refused = len(self.engine.log), 0
        self.broker.ask(b"CONFIG SET maxmemory 1\r\n")
        until, before = time.monotonic() + seconds, len(self.ledger.read().ends)
        while time.monotonic() < until:
            try:
                self.client.send_task("faults.sleep", (LASTS,), retry=False)
            except BrokerFull:
                refused += 1
            time.sleep(0.5)
        ended = len(self.ledger.read().ends) - before
        self.broker.ask(b"CONFIG SET maxmemory 0\r\n")
        self.sent += self._send(10)
        return self._account(f"full for {seconds:g} s: {ended} tasks ended meanwhile, {refused} sends refused", mark)

    def close(self) -> None:
        """Ends everything."""
        self._started.close()

    def _send(self, count: int) -> list[AsyncResult[str]]:
        return self.client.send_many([self.client.signature("faults.sleep", (LASTS,))] * count)

    def _pids(self) -> set[int]:
        status = self.engine.status()
        return {row["pid"] for row in (*status["processes"], *status["slots"])}

    def _start_after(self, moment: float) -> float:
        return next((start.at for start in self.ledger.read().starts if start.at > moment), 0.0)

    def _account(self, felt: str, mark: int) -> str:
        lost = sum(1 for result in self.sent if self._value(result) != result.id)
        twice = sum(1 for count in self.ledger.read().count().values() if count > 1)
        ended = len(self.before - self._pids())
        lines = Counter(line.split()[3] for line in self.engine.log[mark:].splitlines() if len(line.split()) > 3)
        said = f"{felt}; {len(self.sent)} tasks, {lost} lost, {twice} ran twice, {ended} processes ended, "
        said += f"at most {max(lines.values(), default=0)} log lines of a process"
        if lost or twice or ended:
            raise AssertionError(f"{said}\n{self.engine.log[mark:][-3000:]}")
        return said

    def _value(self, result: AsyncResult[str]) -> object:
        try:
            return result.get(timeout=60, propagate=False)
        except (TimeoutError, BrokerUnavailable) as error:
            return error


def run(transport: str, down: Sequence[float], full: Sequence[float]) -> int:
    """Makes each outage; returns how many went wrong."""
    wrong = 0
    for kind, seconds in (*(("killed", one) for one in down), *(("full", one) for one in full)):
        with tempfile.TemporaryDirectory(prefix="engine-outage-") as name:
            tasks = TASKS if kind == "killed" else int(seconds * 2 / LASTS / 2)
            outage = Outage(transport, Path(name).resolve(), tasks)
            try:
                line = outage.killed_for(seconds) if kind == "killed" else outage.full_for(seconds)
            except AssertionError as error:
                wrong, line = wrong + 1, f"WRONG: {error}"
            finally:
                outage.close()
        print(f"{transport}, {line}", flush=True)
    return wrong


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/outages", description=__doc__.splitlines()[0])
    parser.add_argument("--transport", default="redis", help="redis or rabbitmq")
    parser.add_argument("--down", type=float, nargs="*", default=[0.2, 3, 10], help="seconds without the broker")
    parser.add_argument("--full", type=float, nargs="*", default=[], help="seconds in which Redis is full")
    options = parser.parse_args()
    try:
        if options.transport not in ("redis", "rabbitmq") or (options.full and options.transport != "redis"):
            raise ConfigError(f"{options.transport} cannot be taken away so")
        return 1 if run(options.transport, options.down, options.full) else 0
    except ConfigError as error:
        print(f"scripts/outages: {error}", file=sys.stderr)
        return 64


if __name__ == "__main__":
    sys.exit(main())
