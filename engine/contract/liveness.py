"""When is the owner of claims dead? One answer for every transport whose claims outlive a connection.

- A lock file proves death only when it exists and can be locked: it is opened without O_CREAT, and a missing one proves
  nothing. It counts as free when it was free twice, `GRACE` seconds apart: the processes that die with the supervisor
  have gone by then.
- A flock says something about this kernel only: it is asked for workers of the same boot id.
- No clock is compared between hosts: a beat is a counter, watched on the observer's own monotonic clock.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable

from engine.contract.transport import Worker

GRACE = 0.1
"""Seconds between the two looks at a lock."""


class DeathWatch:
    """What one worker knows of the others. Belongs to one consumer's fetch lane; remembers from call to call."""

    def __init__(
        self,
        me: Worker,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._me = me
        self._clock = clock
        self._sleep = sleep
        self._beats: dict[str, tuple[int, float]] = {}

    def dead(self, workers: Iterable[tuple[Worker, int]]) -> list[str]:
        """Takes all known workers with their beats, and returns the ids of those that are proven dead. Sleeps `GRACE`
        seconds when a lock looks free for the first time."""
        others = [(worker, beat) for worker, beat in workers if worker.id != self._me.id]
        silent = self._silent(others)
        rebooted = {worker.id for worker, _ in others if self._of_earlier_boot(worker)}
        suspects = [worker for worker, _ in others if worker.id not in silent | rebooted and self._is_free(worker)]
        if suspects:
            self._sleep(GRACE)
        unlocked = {worker.id for worker in suspects if self._is_free(worker)}
        return [worker.id for worker, _ in others if worker.id in silent | rebooted | unlocked]

    def _silent(self, others: Iterable[tuple[Worker, int]]) -> set[str]:
        now = self._clock()
        beats: dict[str, tuple[int, float]] = {}
        silent = set()
        for worker, beat in others:
            seen, since = self._beats.get(worker.id, (beat, now))
            beats[worker.id] = (beat, since if seen == beat else now)
            if now - beats[worker.id][1] >= worker.dead_after:
                silent.add(worker.id)
        self._beats = beats
        return silent

    def _of_earlier_boot(self, worker: Worker) -> bool:
        return worker.host == self._me.host and worker.boot_id != self._me.boot_id

    def _is_free(self, worker: Worker) -> bool:
        return worker.boot_id == self._me.boot_id and lock_is_free(worker.lock)


def lock_is_free(path: str) -> bool:
    """Says whether the lock file exists and nobody holds it. Never creates it, never waits."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):  # ValueError: no path at all
        return False
    try:
        # Shared: two observers that look at the same time do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
