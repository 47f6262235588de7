"""Named points in the engine at which a process kills itself, stops, or waits.

The engine does not know of them. ``python -m engine.testing.faults start -c worker.toml`` wraps the functions
that are named in ENGINE_TEST_POINTS, and then is ``engine start``; all its processes are forks of that one. Without the
variable nothing is wrapped: a point that is not armed costs nothing.

    ENGINE_TEST_POINTS="settle.after:kill:3,fetch.after_claim:sleep=0.2:5+"

Each is ``point:action:n``: what happens at the n-th pass (1 when it is left out), counted over all processes of the
engine; with a ``+`` at every n-th. Actions: ``kill`` (SIGKILL), ``stop`` (SIGSTOP), ``sleep=<seconds>``,
``fail=<errno>`` (OSError, as ``fail=EAGAIN`` of a fork when there are too many processes).
"""

from __future__ import annotations

import errno
import functools
import importlib
import mmap
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

VARIABLE = "ENGINE_TEST_POINTS"

POINTS = {
    "fork.child": ("engine.runtime.spawn", "child", "before"),
    "fork.service": ("engine.runtime.spawn", "service", "before"),
    "fetch.after_claim": ("engine.runtime.dispatcher.filters", "Filter.sort", "before"),
    "fetch.before_reconcile": ("engine.runtime.dispatcher.fetch", "FetchLane._reconcile", "before"),
    "fetch.after_reconcile": ("engine.runtime.dispatcher.fetch", "FetchLane._reconcile", "after"),
    "handout.before": ("engine.runtime.dispatcher.handout", "Handoff._send", "before"),
    "handout.after": ("engine.runtime.dispatcher.handout", "Handoff._send", "after"),
    "handout.acknowledged": ("engine.runtime.dispatcher.handout", "Handoff.acknowledged", "before"),
    "settle.before": ("engine.runtime.dispatcher.settle", "SettleLane._settle", "before"),
    "settle.after": ("engine.runtime.dispatcher.settle", "SettleLane._settle", "after"),
    "consume.before": ("engine.runtime.dispatcher.settle", "Settler.settled", "before"),
    "consume.after": ("engine.runtime.dispatcher.settle", "Settler.settled", "after"),
    "death.seen": ("engine.runtime.dispatcher.outcomes", "Outcomes._death", "before"),
    "death.judged": ("engine.runtime.dispatcher.outcomes", "Outcomes._died_running", "after"),
    "publish.before": ("engine.runtime.dispatcher.publish", "PublishLane._publish", "before"),
    "publish.after": ("engine.runtime.dispatcher.publish", "PublishLane._publish", "after"),
    "take.before": ("engine.runtime.child.child", "Child._take", "before"),
    "board.after_begin": ("engine.runtime.board", "Slot.begin", "after"),
    "outcome.before_send": ("engine.runtime.child.child", "Child._report", "before"),
    "outcome.after_send": ("engine.runtime.child.child", "Child._report", "after"),
    "done.before": ("engine.runtime.child.child", "Child._done", "before"),
    "adopt.before": ("engine.runtime.supervisor.supervisor", "Supervisor._adopt", "before"),
    "reap.before": ("engine.runtime.supervisor.deaths", "Undertaker._bury", "before"),
    "reap.after": ("engine.runtime.supervisor.deaths", "Undertaker._bury", "after"),
}
"""Where each point is: module, function, and on which side of it."""


@dataclass(frozen=True)
class Order:
    """What is to happen at a point."""

    point: str
    action: str
    number: int
    repeats: bool

    @classmethod
    def parse(cls, text: str) -> Order:
        """Reads ``point:action:n``. Raises ValueError with what is wrong with it."""
        point, _, rest = text.partition(":")
        action, _, number = rest.partition(":")
        if point not in POINTS:
            raise ValueError(f"{VARIABLE}: no point {point!r}; there are: {', '.join(sorted(POINTS))}")
        if action not in ("kill", "stop") and not action.startswith(("sleep=", "fail=E")):
            raise ValueError(f"{VARIABLE}: no action {action!r}; there are: kill, stop, sleep=<seconds>, fail=<errno>")
        return cls(point, action, int(number.rstrip("+") or 1), number.endswith("+"))

    def is_due(self, passes: int) -> bool:
        """Does it happen at this pass?"""
        return passes % self.number == 0 if self.repeats else passes == self.number

    def carry_out(self) -> None:
        """Does it to the calling process. Raises OSError when that is what it is."""
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.action.startswith("fail="):
            number: int = getattr(errno, self.action.removeprefix("fail="))
            raise OSError(number, os.strerror(number))
        else:
            time.sleep(float(self.action.removeprefix("sleep=")))


class Counters:
    """How often each point was passed, in memory that all processes of the engine share. Two that pass at the very same
    time may be counted as one."""

    def __init__(self, count: int) -> None:
        self._words = memoryview(mmap.mmap(-1, max(8, 8 * count))).cast("q")

    def add(self, index: int) -> int:
        """Counts one more; returns the count."""
        self._words[index] += 1
        return self._words[index]


def arm(text: str) -> None:
    """Wraps the functions of the points that ``text`` names. Once, before the first fork. Raises ValueError."""
    orders = [Order.parse(part) for part in text.split(",") if part]
    counters = Counters(len(orders))
    for index, order in enumerate(orders):
        module, path, side = POINTS[order.point]
        owner: Any = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, _wrapped(getattr(owner, name), order, functools.partial(counters.add, index), side))


def _wrapped(call: Callable[..., Any], order: Order, passed: Callable[[], int], side: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def before(*args: Any, **kwargs: Any) -> Any:
        if order.is_due(passed()):
            order.carry_out()
        return call(*args, **kwargs)

    @functools.wraps(call)
    def after(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        if order.is_due(passed()):
            order.carry_out()
        return result

    return before if side == "before" else after
