"""A call that is not made yet: ``task.s(1, 2)``. It can be sent, passed to ``send_many``, or linked to another task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, Unpack

import msgspec

from engine.app import codecs
from engine.app.absent import EXPORTS, OF_A_SIGNATURE, answers, instead
from engine.app.calls import check_call, fields_of, new_id
from engine.app.links import Link
from engine.app.options import CallOptions
from engine.app.registry import App
from engine.errors import SerializationError

if TYPE_CHECKING:
    from engine.app.results import AsyncResult

R = TypeVar("R")


@answers(OF_A_SIGNATURE)
class Signature(Generic[R]):
    """A task's name with arguments and options for ``apply_async``."""

    def __init__(
        self,
        app: App,
        task: str,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        immutable: bool = False,
    ) -> None:
        check_call(options or {}, f"{task}.s")
        self.app = app
        self.task = task
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})
        self.options = dict(options or {})
        self.immutable = immutable
        """True: as a link it gets no result as its first argument."""

    def set(self, immutable: bool | None = None, **options: Unpack[CallOptions]) -> Signature[R]:
        """Changes options of ``apply_async``; returns the signature itself. Raises TypeError for an unknown one."""
        check_call(options, f"{self.task}.s().set")
        self.options.update(options)
        if immutable is not None:
            self.immutable = immutable
        return self

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Signature[R]:
        """Returns a copy; ``args`` go before its own (unless it is immutable), ``kwargs`` over its own."""
        before = () if self.immutable else tuple(args)
        changed = {} if self.immutable else dict(kwargs or {})
        return Signature(
            self.app, self.task, (*before, *self.args), {**self.kwargs, **changed}, self.options, self.immutable
        )

    def link(self, *signatures: Signature[Any]) -> Signature[R]:
        """Adds tasks that run with the result when this one succeeded; returns the signature itself."""
        self.options["link"] = [*as_list(self.options.get("link")), *signatures]
        return self

    def link_error(self, *signatures: Signature[Any]) -> Signature[R]:
        """Adds tasks that run with the id when this one failed; returns the signature itself."""
        self.options["link_error"] = [*as_list(self.options.get("link_error")), *signatures]
        return self

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Sends it; ``args`` go before its own, ``kwargs`` over its own."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> AsyncResult[R]:
        """Sends it with further options. As `Task.apply_async`."""
        call = self.clone(args, kwargs)
        found: AsyncResult[R] = self.app.send_signature(call, {**self.options, **options})
        return found

    def apply(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, throw: bool = False) -> Any:
        """Runs it here and now. As `Task.apply`; raises NotRegistered when this process does not have the task."""
        call = self.clone(args, kwargs)
        return self.app.registered(self.task).apply(call.args, call.kwargs, throw=throw, **self.options)

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Calls the task's function."""
        call = self.clone(args, kwargs)
        found: R = self.app.registered(self.task)(*call.args, **call.kwargs)
        return found

    def to_link(self) -> dict[str, Any]:
        """Returns it as a message carries it, with a new id if it has none. Raises SerializationError, and TypeError
        for arguments that its task would not take when it is called as a link."""
        self._check_as_link()
        fields = fields_of(self.options, 0.0)
        route = self.app.route_to(self.task)
        serializer = fields.pop("serializer", route.codec.name)
        _name_times(fields, self.options, route.expires)
        link = Link(
            task=self.task,
            id=fields.pop("id", None) or new_id(),
            args=_plain(list(self.args), self.task),
            kwargs=_plain(self.kwargs, self.task),
            immutable=self.immutable,
            queue=fields.pop("queue", route.queue),
            priority=fields.pop("priority", route.priority),
            serializer=serializer,
            link=links_of(self.options.get("link")),
            link_error=links_of(self.options.get("link_error")),
            **fields,
        )
        found: dict[str, Any] = msgspec.to_builtins(link)
        return found

    def _check_as_link(self) -> None:
        task = self.app.find(self.task)
        if task is None or not task.code.typing:
            return
        try:
            task.check(self.args if self.immutable else (None, *self.args), self.kwargs)
        except TypeError as error:
            first = "the result, in link_error= the failed task's id, before its own: .si(...) gets its own only"
            gets = "its own arguments only: .s(...) gets the result, or the failed task's id, before them"
            raise TypeError(f"{error}: as a link it gets {gets if self.immutable else first}") from None

    def __or__(self, other: object) -> NoReturn:
        """Raises TypeError: there are no chains by ``|``."""
        raise TypeError(f"a | b makes no chain here{instead('chain', EXPORTS)}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and self._key() == other._key()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        parts = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.task}({', '.join(parts)})"

    def _key(self) -> tuple[Any, ...]:
        return self.task, self.args, self.kwargs, self.options, self.immutable


def as_list(found: Any) -> list[Any]:
    """Returns ``link`` as it may be given - nothing, one signature or several - as a list."""
    if found is None:
        return []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def links_of(found: Any) -> list[dict[str, Any]] | None:
    """Returns signatures as a message carries them. Raises TypeError for what is not a signature."""
    links = as_list(found)
    for link in links:
        if not isinstance(link, Signature):
            raise TypeError(f"a link must be a signature such as task.s(), got {type(link).__name__}")
    return [link.to_link() for link in links] or None


def _name_times(fields: dict[str, Any], options: Mapping[str, Any], expires: float | None) -> None:
    """Gives the times in ``fields``, which count from 0, the names that `Link` has for them: a moment stays what it is,
    a duration will count from the parent's end. ``expires`` is the task's own."""
    if options.get("countdown") is not None:
        fields["delay"] = fields.pop("eta")
    if not isinstance(options.get("expires"), datetime):
        fields["expires_after"] = fields.pop("expires", expires)


def _plain(value: Any, task: str) -> Any:
    try:
        return codecs.decode(codecs.JSON, codecs.encode(codecs.JSON, value))
    except SerializationError as error:
        raise SerializationError(f"{task}: the arguments of a link travel as JSON: {error}") from None
