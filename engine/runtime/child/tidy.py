"""Runs in a child: puts back what a task left changed in its process, so that the next one finds it as it should be.

What cannot be put back makes the child be replaced: threads that go on, when they become more and more. A few stay:
libraries start one for their connections or reports at the first use, and asyncio has a pool of them, so that a child
without would end after each task. This runs after every task, so it asks
the C module behind `signal`, whose own functions turn each number into an enum: 2 us for all of it instead of 12.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not know it
import _thread
import fcntl
import os
import select
import signal
from typing import Any

from engine.runtime import signals

KEPT_THREADS = 32
"""Threads that tasks may leave behind in a child: as many as asyncio's pool has at most (`asyncio.to_thread`)."""
_WATCHED = (*signals.SUPERVISED, signals.INTERRUPT)


def out_of_files() -> str | None:
    """Says so when this process can open no file any more: what it did next would fail, whatever task it is."""
    try:
        os.close(os.dup(0))
    except OSError as error:
        return f"it can open no file any more ({error.strerror}): do its tasks close theirs?"
    return None


class Tidy:
    """Remembers how a child's process is between tasks, and restores it."""

    def remember(self) -> None:
        """Takes what is now as what should be."""
        self._handlers: list[tuple[int, Any]] = [(number, _signal.getsignal(number)) for number in _WATCHED]
        self._threads = _thread._count()
        self._folder = os.getcwd()
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._streams = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in range(3)]
        self._poll = select.poll()
        for fd in range(3):
            self._poll.register(fd, 0)

    def restore(self) -> str | None:
        """Restores handlers, signal mask, timer, folder, umask and descriptors 0 to 2. Returns why the child should be
        replaced all the same."""
        for number, handler in self._handlers:
            if _signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if _signal.pthread_sigmask(_signal.SIG_BLOCK, ()):
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if _signal.getitimer(_signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, 0)
        os.umask(self._umask)
        return self._restore_places() or self._leftover_threads()

    def _restore_places(self) -> str | None:
        try:
            if os.getcwd() != self._folder:
                os.chdir(self._folder)
        except OSError as error:
            return f"its folder is gone ({error.strerror})"
        # One look for all three: of what is asked nothing, only hang-ups, errors and what is not open are told.
        for fd, told in self._poll.poll(0):
            if told & select.POLLNVAL:
                os.dup2(self._streams[fd], fd)
        return None

    def _leftover_threads(self) -> str | None:
        extra = _thread._count() - self._threads
        return f"its tasks left {extra} threads behind: do they end theirs?" if extra > KEPT_THREADS else None
