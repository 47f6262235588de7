"""Runs in the dispatcher: its lanes (threads), and how they hand work to each other.

Surprising facts this rests on:

- A thread that is woken for every message costs more than the message. So work is handed over as lists, and a lane
  takes all that has accumulated.
- The interpreter lets a busy thread run for a whole switch interval (5 ms by default) before another gets its turn. A
  shorter interval is what keeps the outcome lane quick while the settle lane works.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, NoReturn, TypeVar

from engine.runtime.board import LANES, Board

log = logging.getLogger("engine.dispatcher")

Work = TypeVar("Work")

INTERNAL_ERROR = 70
"""Exit status of a dispatcher one of whose lanes failed."""
REMIND = 60.0
"""Seconds between two log lines about one outage."""


class Mailbox:
    """Calls that other lanes ask the main lane to make, with a descriptor that is readable while there are any."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._rung = False

    def fileno(self) -> int:
        """Returns the descriptor to poll."""
        return self._fd

    def post(self, call: Callable[..., None], *args: Any) -> None:
        """Has the main lane make this call. Any thread; calls of one thread are made in their order."""
        self._calls.append((call, args))
        if not self._rung:
            self._rung = True
            os.eventfd_write(self._fd, 1)

    def run(self) -> int:
        """Makes the calls that are there; returns how many. Main lane."""
        # Read always: two lanes that post at once may ring twice. And only then cleared, before the calls are taken: a
        # call that is posted later rings again.
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        self._rung = False
        count = 0
        while self._calls:
            call, args = self._calls.popleft()
            call(*args)
            count += 1
        return count


class Inbox(Generic[Work]):
    """Work for a lane, put as lists and taken all at once."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[Work]] = queue.SimpleQueue()

    def put(self, work: list[Work]) -> None:
        """Hands work over. Any thread."""
        self._queue.put(work)

    def take(self, timeout: float) -> list[Work]:
        """Returns all that is there, waiting up to ``timeout`` s for the first. The inbox's own lane."""
        try:
            work = self._queue.get(timeout=timeout)
        except queue.Empty:
            return []
        if self._queue.empty():
            return work
        work = list(work)
        while not self._queue.empty():
            work += self._queue.get_nowait()
        return work


class Backoff:
    """Growing pauses between attempts: doubled up to a cap, with jitter so that many workers do not come at once.

    The cap is what the first task waits for at most when a broker is back after a long outage.
    """

    def __init__(self, first: float = 0.05, most: float = 0.4) -> None:
        self._first = first
        self._most = most
        self._failures = 0

    def next(self) -> float:
        """Returns how long to wait now, in seconds."""
        pause = min(self._most, self._first * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Says that an attempt succeeded."""
        self._failures = 0


class Outage:
    """What the log says of one server that cannot be reached: when it begins, once a minute, and when it ends."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._lanes: set[str] = set()
        self._since = 0.0
        self._told = 0.0

    @property
    def lasts(self) -> bool:
        """Does any lane find the server unreachable?"""
        return bool(self._lanes)

    def failed(self, lane: str, error: Exception) -> None:
        """Says that this lane could not reach it. Any thread."""
        with self._lock:
            now = time.monotonic()
            if not self._lanes:
                self._since = self._told = now
                log.warning("%s: %s; trying again until it is back", self._what, error)
            elif now - self._told >= REMIND:
                self._told = now
                log.warning("%s: still unavailable after %.0f s: %s", self._what, now - self._since, error)
            self._lanes.add(lane)

    def worked(self, lane: str) -> None:
        """Says that this lane reached it. Any thread; costs nothing while all is well."""
        if lane not in self._lanes:
            return
        with self._lock:
            self._lanes.discard(lane)
            if not self._lanes:
                log.info("%s: back after %.1f s", self._what, time.monotonic() - self._since)


class NoThread(Exception):
    """This process may not have another thread."""


class Lane(threading.Thread):
    """A thread of the dispatcher that goes round until it is told to stop.

    It stamps its word on the board at each round. Whatever leaves `round` ends the dispatcher: the supervisor starts
    another, which finds all unsettled work in the outcome sockets.
    """

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name=f"engine-{name}", daemon=True)
        self.lane = name
        self._board = board
        self._index = LANES.index(name)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Starts the thread. Raises NoThread."""
        try:
            super().start()
        except RuntimeError as error:
            raise NoThread(f"the {self.lane} lane: {error}: raise the limit of processes (ulimit -u)") from None

    def stop(self) -> None:
        """Ends the lane after the round it is in. Any thread."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Has `stop` been called?"""
        return self._stopping.is_set()

    def stamp(self, *, working: bool) -> None:
        """Says on the board that this lane goes round."""
        self._board.stamp_lane(self._index, working)

    def pause(self, seconds: float) -> None:
        """Waits before another attempt, or until the lane is told to stop."""
        self.stamp(working=True)
        self._stopping.wait(seconds)

    def round(self) -> None:
        """Does what there is to do, waiting at most a few seconds."""
        raise NotImplementedError

    def run(self) -> None:
        """The thread's body."""
        try:
            while not self.stopping:
                self.round()
        except BaseException:  # noqa: BLE001 - a lane that is gone must not be missed: the process ends with it
            die(f"the {self.lane} lane failed")


def die(what: str) -> NoReturn:
    """Ends the dispatcher at once, because going on would hide a fault. Inside an ``except``; any thread."""
    log.critical("%s; the dispatcher ends and is started again", what, exc_info=True)
    logging.shutdown()
    os._exit(INTERNAL_ERROR)
