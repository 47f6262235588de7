"""A task: a function with a name and options, that can be called here and sent to a worker."""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Never, NoReturn, ParamSpec, TypeVar, Unpack

import msgspec
from msgspec import UNSET, UnsetType

from engine.app import codecs, registry, retry
from engine.app.absent import OF_A_TASK, answers, refuse_keywords
from engine.app.calls import arguments, check_call
from engine.app.context import Request, current, enter_directly, request_of
from engine.app.failures import ExceptionInfo
from engine.app.on_commit import when_committed
from engine.app.options import CallOptions, CodeOptions, DurationLike, Limits, Resolved, pair, retries_of
from engine.app.parameters import Parameters
from engine.app.progress import emit_state
from engine.app.registry import App
from engine.app.results import AsyncResult, EagerResult
from engine.app.retry import Plan
from engine.app.run import Run
from engine.app.sending import Route
from engine.app.settings import TaskSection
from engine.app.signature import Signature
from engine.app.wire import TaskInfo
from engine.contract.message import Message
from engine.errors import MaxRetriesExceededError, Retry, SerializationError, TransportError

P = ParamSpec("P")
R = TypeVar("R")
HOOKS = ("before_start", "on_success", "on_retry", "on_failure", "after_return")


class Definition(msgspec.Struct, frozen=True):
    """What ``@app.task(...)`` was given, checked."""

    name: str
    bind: bool
    aliases: tuple[str, ...]
    section: TaskSection
    code: CodeOptions


@answers(OF_A_TASK)
class Task(Generic[P, R]):
    """What ``@app.task`` makes of a function. Calling it runs the function; ``delay`` and ``apply_async`` send it.

    A subclass, given as ``base=``, may define the hooks ``before_start on_success on_retry on_failure after_return``,
    ``__call__``, and options as class attributes (the decorator's are stronger). It is made once per task and process,
    without arguments.
    """

    name: str
    """Its name on the wire."""
    __name__: str
    aliases: tuple[str, ...]
    """Former names that it still answers to."""
    bind: bool
    """Is the task the first argument of its function?"""
    function: Callable[..., Any]
    """The function as it was decorated."""
    run: Callable[..., Any]
    """The function, with the task as its first argument if it is bound."""
    is_async: bool
    """Is it an ``async def``?"""
    hooks: frozenset[str]
    """The names of the hooks that its class defines."""
    section: TaskSection
    """Those of the decorator's options that ``[tasks]`` also has."""
    code: CodeOptions
    """Those of the decorator's options that only code has."""
    parameters: Parameters
    """What the function takes."""

    MaxRetriesExceededError = MaxRetriesExceededError
    """What `retry` raises on the last run, where Celery users catch it: ``except self.MaxRetriesExceededError``."""
    OperationalError = TransportError
    """What sending raises, where Celery users catch it: ``except task.OperationalError``."""

    if TYPE_CHECKING:
        # The options as they hold now: see _Option.
        acks_late: bool
        acks_on_failure_or_timeout: bool
        memory_limit: int | None
        max_retries: int | None
        default_retry_delay: float
        rate_limit: float | None
        ignore_result: bool
        store_errors_even_if_ignored: bool
        track_started: bool
        queue: str
        priority: int | None
        expires: float | None
        serializer: str
        time_limit: float | None
        soft_time_limit: float | None

    _app: App | None
    _resolved: Resolved | None

    def __init__(self) -> None:
        """Called once, after the task knows its function and options."""

    @classmethod
    def define(
        cls, function: Callable[..., Any], definition: Definition, app: App | None, made: Task[..., Any] | None = None
    ) -> Task[..., Any]:
        """Makes the task of a function. ``app`` is None for a shared task, which binds at its first use. ``made`` is
        the object to make it of, if there is one."""
        task = made or cls.__new__(cls)
        functools.update_wrapper(task, function)
        task._define(function, definition, app)
        if made is None:
            task.__init__()  # type: ignore[misc]
        return task

    def _define(self, function: Callable[..., Any], definition: Definition, app: App | None) -> None:
        self.name = definition.name
        self.aliases = definition.aliases
        self.code = definition.code
        self.bind = definition.bind
        self.section = definition.section
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self.hooks = frozenset(name for name in HOOKS if getattr(type(self), name) is not getattr(Task, name))
        self.parameters = Parameters(function, definition.bind)
        self.run = functools.partial(function, self) if definition.bind else function
        self._body = self.run if type(self).__call__ is Task.__call__ else self.__call__
        self._app = app
        self.forget_options()

    # Calling.

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the function, here, as it is: ``request.called_directly`` is true in it."""
        request = current.get()
        if request is not None and request.task_object is self and not request.entered:
            # A subclass's __call__ that passes the worker's own call on.
            request.entered = True
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]
        token = current.set(enter_directly(self))
        try:
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]
        finally:
            current.reset(token)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Sends the task with these arguments: ``apply_async(args, kwargs)``."""
        found: AsyncResult[R] = self.app.send_task_object(self, args, kwargs, {})
        return found

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Sends the task; returns the handle of its result.

        Raises TypeError for arguments that the function does not take and for unknown options, SerializationError for
        an argument that cannot be carried, BrokerUnavailable or BrokerFull when sending failed and was tried again as
        ``retry`` and ``retry_policy`` say, ConfigError without a broker.
        """
        check_call(options, f"{self.name}.apply_async")
        positional, named = arguments(args, kwargs, f"{self.name}.apply_async")
        found: AsyncResult[R] = self.app.send_task_object(self, positional, named, options)
        return found

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Sends the task when the current transaction of Django's default database commits: it then finds what the
        transaction wrote. At once without a transaction, never when it rolls back."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        using: str | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        """As `delay_on_commit`, with options of `apply_async`; ``using`` is the name of a database. What is wrong with
        arguments or options is raised at once: TypeError; ConfigError without Django."""
        check_call(options, f"{self.name}.apply_async_on_commit")
        positional, named = arguments(args, kwargs, f"{self.name}.apply_async_on_commit")
        if self.code.typing:
            self.check(positional, named)
        when_committed(lambda: self.apply_async(positional, named, **options), using)

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        throw: bool = False,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R]:
        """Runs the task here and now, through the code that a worker's child runs: arguments and result take the way
        through the codec; retries run at once and count; limits are not enforced. ``throw=True`` raises what it ended
        with."""
        check_call(options, f"{self.name}.apply")
        positional, named = arguments(args, kwargs, f"{self.name}.apply")
        found: EagerResult[R] = self.app.apply(self, positional, named, options, throw)
        return found

    def map(self, iterable: Iterable[Any]) -> list[AsyncResult[R]]:
        """Sends the task once for each item, as its only argument, some hundred messages in a round trip."""
        return list(self.app.send_many([self.s(item) for item in iterable]))

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Returns a signature: this task with some of its arguments."""
        return Signature(self.app, self.name, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Returns an immutable signature: as a link it does not get the result."""
        return Signature(self.app, self.name, args, kwargs, immutable=True)

    def signature(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Signature[R]:
        """Returns a signature with options of ``apply_async``; an immutable one gets no result as a link."""
        return Signature(self.app, self.name, args, kwargs, options, immutable)

    def AsyncResult(self, id: str) -> AsyncResult[R]:  # noqa: N802 - the name Celery users know
        """Returns the handle of the result of this task that has this id."""
        return AsyncResult(id, self.app, self.parameters.convert_result)

    # Inside a run.

    @property
    def request(self) -> Request:
        """The run under way in this thread; an empty one, ``called_directly``, outside of a worker."""
        return request_of(self)

    def update_state(self, state: str, meta: Any = None, **gone: Never) -> None:
        """Writes a state of the task's own, with ``meta`` (which must fit JSON). It is never final: the task's end
        replaces it. Does nothing when the task was called directly. Raises SerializationError."""
        refuse_keywords(gone, f"{self.name}.update_state")
        emit_state(self.request, state, meta)

    def shield(self) -> AbstractContextManager[None]:
        """Returns a context in which the soft limit and interruptions wait for its end. The hard limit does not."""
        run = self.request.run
        return nullcontext() if run is None else run.shield()

    def time_left(self) -> float | None:
        """Returns the seconds until the next limit, or None without one."""
        run = self.request.run
        return None if run is None else run.time_left()

    def retry(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        countdown: DurationLike | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
        throw: bool = True,
        **options: Any,
    ) -> Retry:
        """Ends this run and lets the task run again: same id, one retry more; queue, priority, expires, limits, headers
        and links stay unless ``options`` change them.

        Raises `Retry` (returns it with ``throw=False``; then return from the task). After the last retry that is
        allowed it raises ``exc`` if given, else `MaxRetriesExceededError`. Called directly it raises ``exc``, or the
        exception being handled.
        """
        request = self.request
        handled = exc or _handled()
        if request.run is None:
            raise handled or Retry(f"{self.name}.retry() was called outside of a worker")
        message = request.message
        limit = retry.limit_of(message, self.options, UNSET if max_retries is None else retries_of(max_retries))
        if retry.is_exhausted(message, limit):
            self._give_up(exc, limit)
        at = retry.due(message, self.options, self.code, countdown, eta)
        changes = retry.changes_of(message, args, kwargs, options, self.parameters)
        request.plan = Plan(retry.next_message(message, at, changes), handled, throw)
        signal = Retry(f"retry {message.retries + 1} of {'any number' if limit is None else limit}")
        if throw:
            raise signal from handled
        return signal

    def _give_up(self, exc: BaseException | None, limit: int | None) -> NoReturn:
        current_error = _handled()
        if exc is not None:
            raise exc from (current_error if current_error is not exc else None)
        raise MaxRetriesExceededError(f"{self.name} was retried {limit} times") from current_error

    # Hooks.

    def before_start(self, task_id: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Called in the worker before the function; what it raises is as if the function had."""

    def on_success(self, retval: Any, task_id: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Called in the worker when the function has returned."""

    def on_retry(
        self, exc: BaseException, task_id: str, args: list[Any], kwargs: dict[str, Any], einfo: ExceptionInfo
    ) -> None:
        """Called in the worker when the task will run again."""

    def on_failure(
        self, exc: BaseException, task_id: str, args: list[Any], kwargs: dict[str, Any], einfo: ExceptionInfo
    ) -> None:
        """Called in the worker when the task failed, also (in another child) when that killed its process."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: list[Any],
        kwargs: dict[str, Any],
        einfo: ExceptionInfo | None,
    ) -> None:
        """Called in the worker after any end; ``retval`` is the value or the exception."""

    # For the engine.

    @property
    def app(self) -> App:
        """The engine it belongs to. A shared task binds to the current one at its first use."""
        if self._app is None:
            self._app = registry.current_engine()
        return self._app

    @property
    def options(self) -> Resolved:
        """The options as they hold now."""
        resolved = self._resolved
        if resolved is None:
            resolved = self._resolved = self.app.resolve(self.name, self.section)
        return resolved

    @functools.cached_property
    def info(self) -> TaskInfo:
        """What the dispatcher needs to know of it."""
        options = self.options
        return TaskInfo(
            name=self.name,
            aliases=list(self.aliases),
            acks_late=options.acks_late,
            acks_on_failure_or_timeout=options.acks_on_failure_or_timeout,
            ignore_result=options.ignore_result,
            store_errors_even_if_ignored=options.store_errors_even_if_ignored,
            track_started=options.track_started,
            rate_limit=options.rate_limit,
            hooks=bool(self.hooks & {"on_failure", "after_return"}),
        )

    @functools.cached_property
    def route(self) -> Route:
        """Where and how it is sent."""
        return self.app.route(self.name, self.section)

    @functools.cached_property
    def max_result(self) -> int:
        """The largest result, in bytes."""
        return int(self.app.settings.worker.max_result)

    @functools.cached_property
    def _accepted(self) -> frozenset[str]:
        return frozenset({"json", *self.app.settings.worker.accept})

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises TypeError for arguments that the function does not take."""
        try:
            self.parameters.check(args, kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None

    def forget_options(self) -> None:
        """Lets options be resolved again: the settings have changed."""
        self._resolved = None
        for name in _CACHED:
            self.__dict__.pop(name, None)

    def limits(self, message: Message) -> Limits:
        """Returns the limits of a run of this message: the call's pair, else the task's."""
        options = self.options
        if message.time_limit is None and message.soft_time_limit is None:
            return self._limits
        call = (_unset(message.time_limit), _unset(message.soft_time_limit))
        hard, soft = pair([call, (options.time_limit, options.soft_time_limit)])
        return Limits(hard, soft, options.memory_limit)

    @functools.cached_property
    def _limits(self) -> Limits:
        options = self.options
        return Limits(options.time_limit, options.soft_time_limit, options.memory_limit)

    def decode(self, message: Message, trusted: bool = False) -> tuple[list[Any], dict[str, Any]]:
        """Returns a message's arguments, as the types they are annotated with. ``trusted``: also those of a serializer
        that is not accepted. Raises ValueError, TypeError or SerializationError when they cannot be read, or do not fit
        the function."""
        if message.serializer not in self._accepted and not trusted:
            raise SerializationError(f"serializer {message.serializer!r} is not in accept under [worker]")
        if message.serializer == "json":
            args, kwargs = _read_json(message.args), _read_json(message.kwargs)
        else:
            codec = codecs.find(message.serializer)
            args, kwargs = codecs.decode(codec, message.args), codecs.decode(codec, message.kwargs)
        if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
            raise TypeError("args must be a list and kwargs an object")
        if isinstance(args, tuple):
            args = list(args)
        self.parameters.check(args, kwargs)
        self.parameters.convert(args, kwargs)
        return args, kwargs

    def prepare(self, request: Request, run: Run) -> Callable[[], Any]:
        """Returns what runs the function with the request's arguments (and ``before_start`` before it)."""
        call: Callable[[], Any]
        if self.is_async:
            call = functools.partial(self.app.run_coroutine, self._body, run, request.args, request.kwargs)
        else:
            call = functools.partial(self._body, *request.args, **request.kwargs)
        if "before_start" in self.hooks:
            call = functools.partial(self._start, request, call)
        if (around := self.app.around) is not None and not run.is_eager:
            return functools.partial(around, call)
        return call

    def _start(self, request: Request, call: Callable[[], Any]) -> Any:
        self.before_start(request.message.id, request.args, request.kwargs)
        return call()

    def retries_on(self, error: BaseException) -> bool:
        """Is the task retried automatically after this exception?"""
        code = self.code
        return isinstance(error, code.autoretry_for) and not isinstance(error, code.dont_autoretry_for)

    def plan_automatic(self, request: Request, error: BaseException) -> Plan | None:
        """Returns the automatic retry of a run, or None when no more are allowed."""
        message, given = request.message, self.code.retry_kwargs
        limit = retry.limit_of(message, self.options, given.get("max_retries", UNSET))
        if retry.is_exhausted(message, limit):
            return None
        countdown = None if self.code.retry_backoff else given.get("countdown")
        at = retry.due(message, self.options, self.code, countdown)
        return Plan(retry.next_message(message, at), error)

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self.name,)

    def __repr__(self) -> str:
        return f"<task {self.name}>"


_read_json = msgspec.json.Decoder().decode
_CACHED = ("info", "route", "max_result", "_accepted", "_limits")


class _Option:
    """An attribute of `Task`: an option as it holds now. What a base class or an object sets stands before it."""

    def __init__(self, holder: str, name: str) -> None:
        self._name = name
        self._read = operator.attrgetter(f"{holder}.{name}")

    def __get__(self, task: Task[..., Any] | None, kind: type) -> Any:
        if task is None:
            raise AttributeError(f"type object {kind.__name__!r} has no attribute {self._name!r}")
        return self._read(task)


for _holder, _names in (("options", Resolved.__struct_fields__), ("code", CodeOptions.__dataclass_fields__)):
    for _name in _names:
        setattr(Task, _name, _Option(_holder, _name))


def _find(name: str) -> Any:
    return registry.current_engine().registered(name)


def _unset(value: float | None) -> float | UnsetType:
    return UNSET if value is None else value


def _handled() -> BaseException | None:
    """The exception being handled here."""
    return sys.exc_info()[1]
