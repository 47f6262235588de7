"""The ledger: what tasks say of their own starts and ends, whatever becomes of their process.

One line, one write with O_APPEND: lines of many processes never mix, and what was written survives a SIGKILL.

    S <id> <pid> <monotonic> <deliveries>       a start
    E <id> <pid> <monotonic>                    an end
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

FILE = "ledger"
"""Its name, in the current directory of the engine."""


def note(kind: str, *words: object, path: str = FILE) -> None:
    """Appends a line: ``kind``, then the words. Called by tasks."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{kind} {' '.join(map(str, words))}\n".encode())
    finally:
        os.close(fd)


def started(id: str, deliveries: int) -> None:
    """Notes the start of a run in this process."""
    note("S", id, os.getpid(), f"{time.monotonic():.6f}", deliveries)


def ended(id: str) -> None:
    """Notes its end."""
    note("E", id, os.getpid(), f"{time.monotonic():.6f}")


class Start(NamedTuple):
    """One start of one task."""

    id: str
    pid: int
    at: float
    """Monotonic seconds."""


class Ledger:
    """Reads a ledger while it grows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._offset = 0
        self.starts: list[Start] = []
        self.by_id: dict[str, list[Start]] = defaultdict(list)
        self.ends: Counter[str] = Counter()
        self.open: dict[int, Start] = {}
        """By pid: the last start of that process that has no end."""

    def read(self) -> Ledger:
        """Takes in what was added since the last call. A line that is not whole yet waits."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return self
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        self._take(data[:whole].decode().splitlines())
        return self

    def count(self) -> Counter[str]:
        """Returns how often each id was started."""
        return Counter({id: len(starts) for id, starts in self.by_id.items()})

    def _take(self, lines: Iterable[str]) -> None:
        for line in lines:
            kind, id, pid, *rest = line.split(" ")
            if kind == "S":
                start = Start(id, int(pid), float(rest[0]))
                self.starts.append(start)
                self.by_id[id].append(start)
                self.open[start.pid] = start
            elif kind == "E":
                self.ends[id] += 1
                self.open.pop(int(pid), None)
