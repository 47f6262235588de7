"""Runs in a child: the run of one task after another, and the only place where a limit or an interruption is raised.

The supervisor writes (run, reason) to the slot's ASKED word and sends INTERRUPT. The handler raises only when

- it is the run in hand: a signal that comes late can not hit the next task;
- `ChildRun.invoke` is on the stack: then whatever is raised comes up in the user's function or in code that it called,
  and never in the engine's own code that decodes arguments or reports a result;
- this reason, or a stronger one, was not raised in this run before.

What was asked before ``invoke`` was on the stack is found by its own look at the word.
"""

from __future__ import annotations

import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from engine.app import wire
from engine.contract.results import Record
from engine.errors import ControlFlow, Interrupted, SoftTimeLimitExceeded
from engine.runtime import signals
from engine.runtime.board import ASKED, HARD_NS, RAISED, REASON_BITS, REVOKED, SHUTDOWN, SOFT, SOFT_NS, Slot

_NAMES = {SHUTDOWN: "shutdown", REVOKED: "revoked"}
STACK_FRAMES = 40
STACK_MAX = 16384
_MASK = (1 << REASON_BITS) - 1


class ChildRun:
    """Implements `engine.app.run.Run` for a child: one object for all of its runs."""

    def __init__(self, slot: Slot, link: socket.socket, *, hostname: str, worker: str) -> None:
        self.sequence = 0
        self.number = 0
        self.queue = ""
        self.claim = b""
        self.deliveries = 1
        self.crashes = 0
        self.hostname = hostname
        self.worker = worker
        self.is_eager = False
        self.interrupted: str | None = None
        self.tainted: str | None = None
        self.deliver: Callable[[BaseException], None] | None = None
        self.soft_limit = 0.0
        self._slot = slot
        self._link = link
        self._raised = 0
        self._shields = 0
        self._waiting = 0

    def listen(self) -> None:
        """Installs the handler."""
        signal.signal(signals.INTERRUPT, self.handle)

    def begin(self, handout: wire.Handout, number: int, soft_limit: float) -> None:
        """Makes ready for the next run."""
        self.sequence = handout.sequence
        self.number = number
        self.queue = handout.queue
        self.claim = handout.claim
        self.deliveries = handout.deliveries
        self.crashes = handout.crashes
        self.interrupted = None
        self.deliver = None
        self.soft_limit = soft_limit
        self._raised = self._shields = self._waiting = 0

    def emit(self, record: Record) -> None:
        """Sends a record written while the task runs."""
        wire.post(self._link, wire.encode(wire.Stored(self.sequence, record)))

    def invoke(self, call: Callable[[], Any]) -> Any:
        """Calls the user's function."""
        asked = self._slot[ASKED]
        if asked and asked >> REASON_BITS == self.number:
            self._act(asked & _MASK, None)
        return call()

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Holds soft limit and interruption back until its end."""
        self._shields += 1
        try:
            yield
        finally:
            # Here, so that what waited is raised also when the body raised something else: nobody asks again.
            self._shields -= 1
            if self._waiting and not self._shields:
                reason, self._waiting = self._waiting, 0
                self._act(reason, None)

    def time_left(self) -> float | None:
        """Returns seconds until the next limit, None without one."""
        limits = [at for at in (self._slot[SOFT_NS], self._slot[HARD_NS]) if at]
        now = time.monotonic_ns()
        ahead = [at for at in limits if at > now] or limits[-1:]
        return (min(ahead) - now) / 1e9 if ahead else None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of INTERRUPT."""
        asked = self._slot[ASKED]
        if asked >> REASON_BITS == self.number and _is_inside(frame):
            self._act(asked & _MASK, frame)

    def _act(self, reason: int, frame: FrameType | None) -> None:
        if reason <= self._raised:
            return
        if self._shields:
            self._waiting = max(self._waiting, reason)
            return
        self._raised = reason
        self._slot[RAISED] = self.number << REASON_BITS | reason
        error: ControlFlow
        if reason == SOFT:
            self._tell_stack(frame)
            error = SoftTimeLimitExceeded(self.soft_limit)
        else:
            self.interrupted = _NAMES[reason]
            error = Interrupted(self.interrupted)
        if self.deliver is not None:
            self.deliver(error)
        else:
            raise error

    def _tell_stack(self, frame: FrameType | None) -> None:
        """Says where the task was: should it be killed at its hard limit, nobody else can."""
        text = "".join(traceback.format_stack(frame, STACK_FRAMES))[-STACK_MAX:]
        with suppress(BlockingIOError):  # without room it is not worth waiting for: the task has to hear of its limit
            wire.post(self._link, wire.encode(wire.Stack(self.sequence, text)), wire.NOW)


_INVOKE = ChildRun.invoke.__code__


def _is_inside(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is _INVOKE:
            return True
        frame = frame.f_back
    return False
