"""A wall clock that is set while an engine runs: `time.time` of all its processes, and of nobody else.

``python -m engine.testing.faults start ...`` goes by the file that ENGINE_TEST_CLOCK names; see `WallClock`. Monotonic
time goes on as ever, as it does when an operator, or NTP, sets the real one.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path

from engine.app import clock as engine_clock

VARIABLE = "ENGINE_TEST_CLOCK"
_OFFSET = struct.Struct("d")


class WallClock:
    """Sets the clock of the processes that were started with the path of this file in `VARIABLE`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            self.set(0.0)

    def set(self, ahead: float) -> None:
        """Makes it show so many seconds more than the real one (less: negative), from now on."""
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(_OFFSET.pack(ahead))

    def reading(self) -> Callable[[], float]:
        """Returns what to put in the place of `time.time` in a process that is to go by it."""
        with self.path.open("rb") as file:
            shown = mmap.mmap(file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
        real = time.time

        def now() -> float:
            ahead: float = _OFFSET.unpack_from(shown)[0]
            return real() + ahead

        return now


def install(path: str) -> None:
    """Has this process, and those forked from it, go by the clock in this file. Once, before the first fork."""
    time.time = engine_clock.now = WallClock(Path(path)).reading()
