"""The process that sends: `client.py MODULE` reads requests from stdin and answers on stdout, one JSON array a line.

A process of its own for each contender, so that neither the harness nor another library is in its way. Requests:
``["ask", function, *arguments]`` calls a function of the contender and answers [result, wall, CPU seconds];
``["keep", function, *arguments]`` the same, keeping the result here; ``["check", n]`` asks how many of n kept handles
have a result; ``["calls", count]`` times round trips; ``["stamps", count, rate]`` sends stamped tasks at a rate.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

import trees


class Client:
    """Answers requests."""

    def __init__(self, module: str) -> None:
        self._contender = importlib.import_module(f"contenders.{module}")
        self._sent: list[Any] = []

    def ask(self, function: str, *arguments: Any) -> list[Any]:
        """Calls a function of the contender."""
        wall, cpu = time.monotonic(), trees.own_cpu()
        result = getattr(self._contender, function)(*arguments)
        return [result, time.monotonic() - wall, trees.own_cpu() - cpu]

    def keep(self, function: str, *arguments: Any) -> list[Any]:
        """Calls a function of the contender that returns what tells the tasks it has sent."""
        sent, wall, cpu = self.ask(function, *arguments)
        self._sent = sent
        return [len(sent), wall, cpu]

    def check(self, count: int) -> list[int]:
        """Returns how many of a sample have a result, and how many were asked."""
        sample = self._sent[:: max(1, len(self._sent) // count)][:count]
        return [self._contender.kept(sample), len(sample)]

    def calls(self, count: int) -> list[float]:
        """Returns the seconds of each of so many round trips, one at a time."""
        taken = []
        for _ in range(count):
            start = time.perf_counter()
            self._contender.call()
            taken.append(time.perf_counter() - start)
        return taken

    def stamps(self, count: int, rate: float) -> None:
        """Sends stamped tasks, so many a second."""
        for _ in range(count):
            self._contender.send_stamp(time.monotonic())
            time.sleep(1 / rate)


def main() -> None:
    """Answers until stdin ends."""
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    client = Client(sys.argv[1])
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        print(json.dumps(getattr(client, verb)(*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
