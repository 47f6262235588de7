"""What the tasks of every contender write down: how many ran, and when some of them started.

The count is a shared file with one number for each thread that runs tasks: a task costs one store, the same for all.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from pathlib import Path

SLOTS = 512
"""Slot 0 counts the slots that are taken."""
_SIZE = 8 * SLOTS


class Ledger:
    """The harness's end: makes the files and reads them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger"
        self.path.write_bytes(bytes(_SIZE))
        self._arrivals = arrivals_path(self.path)
        self._arrivals.write_bytes(b"")
        self._view = _view(self.path)

    @property
    def total(self) -> int:
        """How many tasks have run."""
        return sum(self._view[1:])

    def arrivals(self) -> list[tuple[float, float]]:
        """Returns (time sent, time started) of the stamped tasks, in monotonic seconds."""
        lines = self._arrivals.read_text().splitlines()
        return [(float(sent), float(started)) for sent, started in (line.split() for line in lines)]


class _Counter(threading.local):
    """This thread's number."""

    def __init__(self) -> None:
        self.view = _view(Path(os.environ["BENCH_LEDGER"]))
        with open(os.environ["BENCH_LEDGER"], "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.view[0] += 1
            self.slot = self.view[0]


_counter: _Counter | None = None


def count() -> None:
    """Counts a run."""
    global _counter
    if _counter is None:
        _counter = _Counter()
    _counter.view[_counter.slot] += 1


def stamp(sent: float) -> None:
    """Counts a run, and notes when it started beside when it was sent."""
    now = time.monotonic()
    fd = os.open(arrivals_path(Path(os.environ["BENCH_LEDGER"])), os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{sent!r} {now!r}\n".encode())
    os.close(fd)
    count()


def arrivals_path(path: Path) -> Path:
    """Returns where the times are, beside the counts."""
    return path.with_name("arrivals")


def _forget() -> None:
    """A fork counts on its own."""
    global _counter
    _counter = None


def _view(path: Path) -> memoryview:
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("q")


os.register_at_fork(after_in_child=_forget)
