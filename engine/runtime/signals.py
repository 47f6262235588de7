"""Runs in every process: which signals it hears, and how the supervisor turns them into events.

Handlers only note that a signal came; the loop acts. TERM, INT, HUP and QUIT often reach a whole process group, so all
processes but the supervisor answer them with a handler that does nothing (never SIG_IGN, which a subprocess of a task
would inherit over exec).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SUPERVISED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
INTERRUPT = signal.SIGUSR1
"""What the supervisor sends to a child whose ASKED word it has written."""


def _nothing(number: int, frame: FrameType | None) -> None:
    """Hears a signal and does nothing."""


def take_no_part() -> None:
    """Makes this process (dispatcher, template, child) hear the group's signals without acting on them."""
    signal.set_wakeup_fd(-1)
    for number in SUPERVISED:
        signal.signal(number, _nothing)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(INTERRUPT, _nothing)


def restore_defaults() -> None:
    """Gives a process that a task forked the handlers that a fresh Python has."""
    signal.set_wakeup_fd(-1)
    for number in (*SUPERVISED, INTERRUPT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def blocked() -> Iterator[None]:
    """Holds all signals back, so that none reaches a fork before it has its own handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class SignalPipe:
    """The supervisor's signals as events (a self-pipe): a descriptor to poll, and the numbers that came."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (*SUPERVISED, signal.SIGCHLD):
            signal.signal(number, _nothing)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def fileno(self) -> int:
        """Returns the descriptor that is readable when a signal came."""
        return self._read

    def take(self) -> set[int]:
        """Returns the signals that came since the last call, each once however often it came."""
        came: set[int] = set()
        while True:
            try:
                data = os.read(self._read, 4096)
            except BlockingIOError:
                return came
            came.update(data)
