"""What a call returns: the handle of a result, and the result of a task that ran here and now."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Generic, Never, TypeVar

import msgspec

from engine.app import codecs, failures
from engine.app.absent import OF_A_RESULT, answers, refuse_keywords
from engine.app.registry import App, current_engine
from engine.app.sending import running
from engine.contract.results import FAILURE, PENDING, SUCCESS, Body, Record
from engine.contract.transport import CannotTell
from engine.errors import ConfigError, JoinError, SerializationError, TimeoutError  # noqa: A004 - derives from the builtin

R = TypeVar("R")
_WAIT = 60.0
"""Seconds of one wait in the backend, when there is no timeout."""
_decoder = msgspec.json.Decoder(Body)


@answers(OF_A_RESULT)
class AsyncResult(Generic[R]):
    """The result of a task, by its id. Cheap to make; asks the result backend when it is read. Once the task has ended
    the answer is kept. Equal to its id. Raises ConfigError when it is made without an app and there is none."""

    def __init__(
        self, id: str, app: App | None = None, convert: Callable[[Any], Any] | None = None, ignored: bool = False
    ) -> None:
        self.id = id
        self.app: App = app or current_engine()
        """The engine whose result backend is asked: the current one unless another is given."""
        self.ignored = ignored
        """True: the call said that no result is kept; `get` returns None at once."""
        self._convert = convert
        self._final: tuple[Record, Body] | None = None

    @property
    def task_id(self) -> str:
        """The same as ``id``."""
        return self.id

    @property
    def state(self) -> str:
        """PENDING (also for an id that nobody knows), STARTED, RETRY, a state of the task's own, SUCCESS, FAILURE or
        REVOKED."""
        return self._body().state

    @property
    def status(self) -> str:
        """The same as ``state``."""
        return self.state

    @property
    def result(self) -> Any:
        """The value of a success, the exception of a failure, retry or revocation, the meta of a state of the task's
        own; None as long as there is none."""
        return self._value(self._body())

    @property
    def info(self) -> Any:
        """The same as ``result``."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """The text of the traceback of a failure or retry."""
        return self._body().traceback

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, in UTC; None if it has not."""
        record, body = self._look()
        return datetime.fromtimestamp(body.date, UTC) if record is not None and record.final else None

    @property
    def name(self) -> str | None:
        """The name of the task, once a state was recorded."""
        return self._body().task or None

    @property
    def retries(self) -> int:
        """How many times the task was retried so far."""
        return self._body().retries

    @property
    def worker(self) -> str | None:
        """The worker that wrote the state."""
        return self._body().worker or None

    @property
    def children(self) -> list[AsyncResult[Any]]:
        """The results of the tasks that this one sent, and of those linked to its success."""
        return [AsyncResult(id, self.app) for id in self._body().children or ()]

    @property
    def known(self) -> bool | None:
        """Is there anything of this id, a record or a message at the broker? None where neither can tell."""
        if self._has_backend() and self._look()[0] is not None:
            return True
        found = self.app.client.broker(lambda transport: transport.find(self.id))
        return None if isinstance(found, CannotTell) else found is not None

    def ready(self) -> bool:
        """Has the task ended?"""
        record, _ = self._look()
        return record is not None and record.final

    def successful(self) -> bool:
        """Has it ended SUCCESS?"""
        return self._has_ended(SUCCESS)

    def failed(self) -> bool:
        """Has it ended FAILURE?"""
        return self._has_ended(FAILURE)

    def get(
        self, timeout: float | None = None, propagate: bool = True, *, allow_join: bool = False, **gone: Never
    ) -> R:
        """Waits for the end of the task and returns its value.

        ``timeout`` is in seconds, None is for ever. When the task failed or was revoked its exception is raised, or
        returned with ``propagate=False``; one that would end this process, such as SystemExit, is raised as a
        RemoteError. Raises TimeoutError when ``timeout`` has passed, JoinError inside a task (``allow_join=True``
        overrides), ConfigError without a result backend, BrokerUnavailable, and TypeError for any other argument.
        """
        refuse_keywords(gone, "get")
        if self.ignored:
            return None  # type: ignore[return-value]
        if not allow_join and (request := running()) is not None and not request.is_eager:
            raise JoinError(
                "get() inside a task holds a child that the other task may be waiting for: use link=, or send a task "
                "that goes on when the result is there, or say get(allow_join=True) if you know that it cannot deadlock"
            )
        return self._finish(self._wait(timeout), propagate)

    def wait(
        self, timeout: float | None = None, propagate: bool = True, *, allow_join: bool = False, **gone: Never
    ) -> R:
        """The same as `get`."""
        refuse_keywords(gone, "wait")
        return self.get(timeout, propagate, allow_join=allow_join)

    def forget(self) -> None:
        """Removes what the result backend keeps of it."""
        self._final = None
        with self.app.client.results() as backend:
            backend.forget([self.id])

    def revoke(self, terminate: bool = False, **gone: Never) -> None:
        """Sees to it that the task does not run (again), also when no worker is up. ``terminate`` interrupts it if it
        runs now. A task that has ended is left as it is. Raises BrokerUnavailable."""
        refuse_keywords(gone, "revoke")
        self.app.revoke([self.id], terminate)

    def __eq__(self, other: object) -> bool:
        return self.id == (other.id if isinstance(other, AsyncResult) else other)

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def _wait(self, timeout: float | None) -> Body:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._final is None:
            left = _WAIT if deadline is None else max(0.0, deadline - time.monotonic())
            with self.app.client.results() as backend:
                for record in backend.wait([self.id], min(left, _WAIT)):
                    self._keep(record)
            if self._final is None and deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(
                    f"task {self.id} has not ended in {timeout:g} s: `engine result {self.id}` says where it is"
                )
        return self._final[1]

    def _finish(self, body: Body, propagate: bool) -> R:
        value = self._value(body)
        if propagate and body.state != SUCCESS and isinstance(value, BaseException):
            raise failures.bearable(value)
        found: R = value
        return found

    def _value(self, body: Body) -> Any:
        if body.failure is not None:
            return failures.rebuild(body)
        if body.result is msgspec.UNSET:
            return None
        if body.serializer not in self.app.settings.worker.accept and body.serializer != "json":
            raise SerializationError(
                f"the result of {self.id} is {body.serializer}, which is not accepted here: "
                f'add "{body.serializer}" to accept under [worker] if whoever can write to the backend is trusted'
            )
        value = codecs.decode(codecs.find(body.serializer), body.result)
        return self._convert(value) if self._convert is not None and body.state == SUCCESS else value

    def _body(self) -> Body:
        return self._look()[1]

    def _look(self) -> tuple[Record | None, Body]:
        if self._final is not None:
            return self._final
        with self.app.client.results() as backend:
            record = backend.get([self.id]).get(self.id)
        if record is None:
            return None, _NOTHING
        if record.final:
            self._keep(record)
        return record, _decoder.decode(record.body)

    def _keep(self, record: Record) -> Body:
        body = _decoder.decode(record.body)
        self._final = (record, body)
        return body

    def _has_ended(self, state: str) -> bool:
        record, body = self._look()
        return record is not None and record.final and body.state == state

    def _has_backend(self) -> bool:
        try:
            with self.app.client.results():
                return True
        except ConfigError:
            return False


class EagerResult(AsyncResult[R]):
    """The result of a task that ran here and now: complete from the start, known to no backend."""

    def __init__(
        self, record: Record, app: App, convert: Callable[[Any], Any] | None, error: BaseException | None = None
    ) -> None:
        super().__init__(record.id, app, convert)
        self._keep(record)
        self._error = error

    @property
    def known(self) -> bool:
        """True."""
        return True

    def get(
        self, timeout: float | None = None, propagate: bool = True, *, allow_join: bool = False, **gone: Never
    ) -> R:
        """Returns the value, or raises the very exception that the task raised (``propagate=False``: returns it)."""
        refuse_keywords(gone, "get")
        if self._error is not None and propagate:
            raise failures.bearable(self._error)
        return super().get(timeout, propagate, allow_join=True)

    def forget(self) -> None:
        """Does nothing: nothing is kept elsewhere."""

    def revoke(self, terminate: bool = False, **gone: Never) -> None:
        """Does nothing: it has ended."""
        refuse_keywords(gone, "revoke")

    def _value(self, body: Body) -> Any:
        if self._error is not None:
            return self._error
        if body.result is msgspec.UNSET:
            return super()._value(body)
        value = codecs.decode(codecs.find(body.serializer), body.result)
        return self._convert(value) if self._convert is not None else value


_NOTHING = Body(state=PENDING, task="", date=0.0)
