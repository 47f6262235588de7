"""Runs in the supervisor: what it knows of the services it keeps alive (dispatcher, template): how each is started,
when it is started again, and what waits to be told to it. It knows nothing of what they do.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.runtime import control
from engine.runtime.processes import Exit
from engine.runtime.supervisor.children import Backoff

log = logging.getLogger("engine.supervisor")
CONTROL_BUFFER = 1 << 20
CRASH_LIMIT = 10
"""Failures in a row after which a service is given up: it did not get ready, or ended itself soon after."""
STEADY = 10.0
"""Seconds after which a service that was ready counts as one that works."""


class Service:
    """One process that the supervisor keeps alive.

    ``launch(control)`` forks it and returns the pid; ``control`` is the service's end of a new pair.
    """

    def __init__(self, role: str, launch: Callable[[socket.socket], int]) -> None:
        self.role = role
        self._launch = launch
        self.pid = 0
        self.ready = False
        self.wanted = True
        self.failure: control.Failed | None = None
        """What it said when it could not start."""
        self.started_at = 0.0
        self.starts = 0
        self.backoff = Backoff(limit=CRASH_LIMIT)
        self._control: socket.socket | None = None
        self._outbox: deque[tuple[control.Control, list[int]]] = deque()

    @property
    def fd(self) -> int:
        """Returns the descriptor of the supervisor's end, -1 while there is none."""
        return self._control.fileno() if self._control else -1

    @property
    def has_mail(self) -> bool:
        """Does something wait for room in the socket?"""
        return self._control is not None and bool(self._outbox)

    def start_if_due(self, now: float) -> bool:
        """Starts it if it is wanted, not there, and its backoff has passed."""
        if self.pid or not self.wanted or self.backoff.hopeless or now < self.backoff.not_before:
            return False
        self._empty_outbox()
        self.starts += 1
        try:
            self._control, self.pid = self._start()
        except OSError as error:
            log.error("cannot start the %s: %s", self.role, error)
            self.backoff.failed(now)
            return False
        self.started_at, self.ready, self.failure = now, False, None
        return True

    def _start(self) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CONTROL_BUFFER)
                return ours, self._launch(theirs)
            except OSError:
                ours.close()
                raise

    def tell(self, message: control.Control, fds: Sequence[int] = ()) -> None:
        """Sends a message, and copies of the descriptors, now or as soon as there is room. What a service that died did
        not read is lost with it. Raises OSError when no descriptor can be copied any more."""
        if self._control is not None:
            self._outbox.append((message, _copies(fds)))
            self.flush()

    def flush(self) -> None:
        """Sends what there is room for."""
        while self._outbox and self._control is not None:
            message, fds = self._outbox[0]
            try:
                control.tell(self._control, message, fds, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self._empty_outbox()
                return
            self._outbox.popleft()
            _close(fds)

    def hear(self) -> list[Any]:
        """Returns the messages that have come. Ready and Failed are noted here, and returned too."""
        messages: list[Any] = []
        while self._control is not None:
            try:
                heard = control.hear(self._control, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                heard = None
            except msgspec.DecodeError as error:
                log.error("the %s says what cannot be read, and is killed: %s", self.role, error)
                self.kill()
                break
            if heard is None:
                self._hang_up()
                break
            message, fds = heard
            _close(fds)  # no service sends any
            self._note(message)
            messages.append(message)
        return messages

    def _note(self, message: object) -> None:
        if isinstance(message, control.Ready):
            self.ready = True
        elif isinstance(message, control.Failed):
            self.failure = message

    def died(self, end: Exit, now: float) -> None:
        """Notes its end. Without a later `start_if_due` it stays away. One that said why it could not start is the
        caller's to report."""
        uptime, told = now - self.started_at, self.failure is not None
        if self.ready and (uptime > STEADY or end.signal == signal.SIGKILL):
            self.backoff.succeeded()  # it worked, and something else ended it
        self.pid, self.ready = 0, False
        self._hang_up()
        if self.wanted:
            self.backoff.failed(now)
            if not told:
                wait = max(0.0, self.backoff.not_before - now)
                log.error("%s died after %.1f s (%s); starting it again in %.1f s", self.role, uptime, end.words, wait)

    def kill(self) -> None:
        """Kills it (SIGKILL), if it is there. Its death is reaped like any other."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def dismiss(self) -> None:
        """Ends it for good."""
        self.wanted = False
        self.kill()

    @property
    def uptime(self) -> float:
        """Seconds since its last start."""
        return time.monotonic() - self.started_at if self.pid else 0.0

    def _empty_outbox(self) -> None:
        while self._outbox:
            _close(self._outbox.popleft()[1])

    def _hang_up(self) -> None:
        self._empty_outbox()
        if self._control is not None:
            self._control.close()
            self._control = None


def _copies(fds: Sequence[int]) -> list[int]:
    copies: list[int] = []
    try:
        copies += (os.dup(fd) for fd in fds)
    except OSError:
        _close(copies)
        raise
    return copies


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
