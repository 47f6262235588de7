"""What a task can know of its own run: ``self.request`` and ``current_task``."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from engine.app.absent import OF_A_REQUEST, answers
from engine.app.run import Run
from engine.contract.message import VERSION, Message

if TYPE_CHECKING:
    from engine.app.retry import Plan

_DIRECT = Message(version=VERSION, id="", task="", sent=0.0)


@answers(OF_A_REQUEST)
class Request:
    """One run of one task, as the task sees it. Made by `engine.app.execute`; outside of a run it says
    ``called_directly`` and is otherwise empty."""

    __slots__ = (
        "args",
        "children",
        "emitted",
        "entered",
        "kwargs",
        "message",
        "outer",
        "plan",
        "run",
        "task_object",
    )

    def __init__(self, task_object: Any, message: Message, run: Run | None, outer: Request | None) -> None:
        self.task_object = task_object
        self.message = message
        self.run = run
        self.outer = outer
        self.args: list[Any] = []
        """Positional arguments, decoded."""
        self.kwargs: dict[str, Any] = {}
        self.children: list[str] = []
        """Ids of the tasks that this run has sent."""
        self.plan: Plan | None = None
        """The retry that was asked for in this run."""
        self.entered = False
        """Has the worker's call gone through ``Task.__call__``?"""
        self.emitted = False
        """Was a record written in this run?"""

    @property
    def called_directly(self) -> bool:
        """Was the task called as a function?"""
        return self.run is None

    @property
    def is_eager(self) -> bool:
        """Does it run in the process of its caller, through ``apply``?"""
        return self.run is not None and self.run.is_eager

    @property
    def id(self) -> str | None:
        """The task's id; None when called directly."""
        return self.message.id or None

    @property
    def correlation_id(self) -> str | None:
        """The same as ``id``."""
        return self.id

    @property
    def task(self) -> str:
        """The task's name as the message has it."""
        return self.message.task or str(getattr(self.task_object, "name", ""))

    @property
    def retries(self) -> int:
        """How many times it was retried: 0 in the first run; redeliveries do not count."""
        return self.message.retries

    @property
    def deliveries(self) -> int:
        """1, and one more for each earlier delivery of this run."""
        return 1 if self.run is None else self.run.deliveries

    @property
    def eta(self) -> str | None:
        """When it was due, as ISO 8601 text in UTC."""
        return _iso(self.message.eta)

    @property
    def expires(self) -> str | None:
        """When it expires, as ISO 8601 text in UTC."""
        return _iso(self.message.expires)

    @property
    def origin(self) -> str:
        """``pid@host`` of the sender."""
        return self.message.origin

    @property
    def hostname(self) -> str:
        """The host (or child's name) that runs it."""
        return socket.gethostname() if self.run is None else self.run.hostname

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self.message.queue if self.run is None else self.run.queue

    @property
    def priority(self) -> int:
        """0..9, 9 first."""
        return self.message.priority or 0

    @property
    def delivery_info(self) -> dict[str, Any]:
        """Queue, priority and whether it was delivered before, by the names Celery users know."""
        redelivered = self.deliveries > 1
        return {"exchange": "", "routing_key": self.queue, "priority": self.priority, "redelivered": redelivered}

    @property
    def root_id(self) -> str | None:
        """The first task of the tree that this one was sent from."""
        return self.message.root or self.id

    @property
    def parent_id(self) -> str | None:
        """The task that sent this one."""
        return self.message.parent

    @property
    def headers(self) -> Mapping[str, Any]:
        """What the call gave as ``headers``."""
        return self.message.headers or {}

    @property
    def timelimit(self) -> tuple[float | None, float | None]:
        """(hard, soft) limit of the call, in seconds."""
        return self.message.time_limit, self.message.soft_time_limit

    @property
    def shadow(self) -> str | None:
        """The name to show instead of the task's."""
        return self.message.shadow

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute, or one of the headers, or ``default``."""
        if name.startswith("_"):
            return default
        value = getattr(self, name, None)
        return self.headers.get(name, default) if value is None else value

    def __repr__(self) -> str:
        return f"<Request {self.task}[{self.id}] retries={self.retries}>"


current: ContextVar[Request | None] = ContextVar("engine_current", default=None)
"""The run under way in this thread (or asyncio task)."""


def request_of(task: Any) -> Request:
    """Returns the request of the innermost run of ``task`` under way here, or an empty one."""
    request = current.get()
    while request is not None:
        if request.task_object is task:
            return request
        request = request.outer
    return Request(task, _DIRECT, None, None)


def enter_directly(task: Any) -> Request:
    """Returns the request of a task that is called as a function; the caller makes it current."""
    return Request(task, _DIRECT, None, current.get())


class CurrentTask:
    """Stands for the task that runs here: has all its attributes, and is false outside of a task."""

    def __getattr__(self, name: str) -> Any:
        request = current.get()
        if request is None:
            raise AttributeError(f"no task is running here, so current_task has no {name!r}")
        return getattr(request.task_object, name)

    def __bool__(self) -> bool:
        return current.get() is not None

    def __eq__(self, other: object) -> bool:
        request = current.get()
        return other is (None if request is None else request.task_object)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        request = current.get()
        return "<current task: none>" if request is None else repr(request.task_object)


current_task = CurrentTask()


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()
