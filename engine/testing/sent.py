"""What an app sent, kept for tests to look at."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.app import codecs
from engine.app.app import Engine
from engine.app.client import POLICY, Client
from engine.app.registry import App
from engine.app.task import Task
from engine.contract.message import Envelope, Message

_ATTRIBUTES = ("queue", "priority", "countdown", "eta", "expires", "headers", "retries", "id", "serializer")


@dataclass(frozen=True)
class Sent:
    """One message that was sent, arguments decoded: as what JSON (or the call's serializer) makes of them."""

    task: str
    id: str
    args: list[Any]
    kwargs: dict[str, Any]
    queue: str
    priority: int | None
    countdown: float | None
    """Seconds from the call until it is due."""
    eta: float | None
    """When it is due, in seconds since the epoch."""
    expires: float | None
    """Seconds from the call until it expires."""
    headers: dict[str, Any]
    retries: int
    serializer: str

    @classmethod
    def of(cls, message: Message) -> Sent:
        """Reads a message."""
        codec = codecs.find(message.serializer)
        return cls(
            task=message.task,
            id=message.id,
            args=list(codecs.decode(codec, message.args)),
            kwargs=dict(codecs.decode(codec, message.kwargs)),
            queue=message.queue,
            priority=message.priority,
            countdown=None if message.eta is None else message.eta - message.sent,
            eta=message.eta,
            expires=None if message.expires is None else message.expires - message.sent,
            headers=dict(message.headers or {}),
            retries=message.retries,
            serializer=message.serializer,
        )

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        options = [f"{name}={getattr(self, name)!r}" for name in ("countdown", "priority") if getattr(self, name)]
        return f"{self.task}({', '.join(given)}) queue={self.queue!r} {' '.join(options)}".rstrip()


class WatchedClient(Client):
    """A client that keeps what is sent through it."""

    sent: list[Sent]

    def __init__(self, app: Engine) -> None:
        super().__init__(lambda: app.settings)
        self.sent = []

    def publish(self, envelopes: Sequence[Envelope], policy: Mapping[str, Any] | None = POLICY) -> None:
        """Keeps the messages, then sends them."""
        self.sent.extend(Sent.of(Message.decode(envelope.body)) for envelope in envelopes)
        super().publish(envelopes, policy)


def sent_by(where: App | Task[..., Any], task: str | None = None) -> list[Sent]:
    """Returns what an app sent (``task``: of the task of that name), or what was sent of one task, in order.

    Raises AssertionError when nobody watches the app: `eager`, `recording` and `worker` do.
    """
    app = where.app if isinstance(where, Task) else where
    name = where.name if isinstance(where, Task) else task
    client = app.client
    assert isinstance(client, WatchedClient), (
        f"nobody watches what {app.name!r} sends: use the fixture engine_app, engine_sent or engine_worker, "
        "or engine.testing.eager(app)"
    )
    return [one for one in client.sent if name is None or one.task == name]


def assert_sent(
    where: App | Task[..., Any],
    args: Iterable[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    task: str | None = None,
    count: int | None = None,
    **expected: Any,
) -> Sent:
    """Checks that a task was sent, and returns the first message that fits.

    ``where`` is the task, or the app (with ``task``, a name). ``args`` and ``kwargs`` are compared as they travel, and
    by the function's parameters: ``(1, 2)`` fits a call with ``y=2``. ``count``: how many must fit. Further keywords
    are attributes of `Sent`: ``queue="slow"``, ``countdown=60``. Raises AssertionError that lists what was sent.
    """
    if count is not None and count < 1:
        raise ValueError("count is at least 1: assert_not_sent() checks that there is none")
    fitting = _fitting(where, args, kwargs, task, expected)
    wanted = _described(where, task, args, kwargs, expected)
    assert fitting if count is None else len(fitting) == count, (
        f"{len(fitting)} messages fit {wanted}{'' if count is None else f', not {count}'}; sent were: {_listed(where)}"
    )
    return fitting[0]


def assert_not_sent(
    where: App | Task[..., Any],
    args: Iterable[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    task: str | None = None,
    **expected: Any,
) -> None:
    """Checks that nothing of the kind was sent; arguments as `assert_sent`. Raises AssertionError."""
    fitting = _fitting(where, args, kwargs, task, expected)
    wanted = _described(where, task, args, kwargs, expected)
    assert not fitting, f"{len(fitting)} messages fit {wanted}; sent were: {_listed(where)}"


def _fitting(
    where: App | Task[..., Any],
    args: Iterable[Any] | None,
    kwargs: Mapping[str, Any] | None,
    task: str | None,
    expected: Mapping[str, Any],
) -> list[Sent]:
    unknown = set(expected) - set(_ATTRIBUTES)
    if unknown:
        raise TypeError(f"Sent has no attribute {', '.join(sorted(unknown))}: there are {', '.join(_ATTRIBUTES)}")
    sent = sent_by(where, task)
    if args is not None or kwargs is not None:
        positional, named = list(args or ()), dict(kwargs or {})
        sent = [one for one in sent if _fits(where, one, positional, named)]
    return [one for one in sent if all(getattr(one, name) == value for name, value in expected.items())]


def _fits(where: App | Task[..., Any], one: Sent, args: list[Any], kwargs: dict[str, Any]) -> bool:
    codec = codecs.find(one.serializer)
    plain_args, plain_kwargs = codecs.decode(codec, codecs.encode(codec, [args, kwargs]))
    app = where.app if isinstance(where, Task) else where
    task = app.find(one.task)
    return _bound(task, one.args, one.kwargs) == _bound(task, list(plain_args), plain_kwargs)


def _bound(task: Task[..., Any] | None, args: list[Any], kwargs: dict[str, Any]) -> object:
    """Arguments by the names of their parameters, where the task is known and can be called so."""
    if task is None:
        return args, kwargs
    try:
        bound = inspect.signature(task.run).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return args, kwargs
    bound.apply_defaults()
    return bound.arguments


def _described(
    where: App | Task[..., Any],
    task: str | None,
    args: Iterable[Any] | None,
    kwargs: Mapping[str, Any] | None,
    expected: Mapping[str, Any],
) -> str:
    name = where.name if isinstance(where, Task) else task or "any task"
    parts = [f"args={args!r}"] * (args is not None) + [f"kwargs={kwargs!r}"] * (kwargs is not None)
    return " ".join([name, *parts, *(f"{key}={value!r}" for key, value in expected.items())])


def _listed(where: App | Task[..., Any]) -> str:
    app = where.app if isinstance(where, Task) else where
    return "".join(f"\n  {one}" for one in sent_by(app)) or "nothing"
