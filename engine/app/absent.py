"""Names that Celery users look for and that are not here, each with what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

_Class = TypeVar("_Class", bound=type)

_CHAIN = "write a.apply_async(..., link=b.s()); a link may have a link: b.s().link(c.s())"
_MANY = "write app.send_many([a.s(1), a.s(2)]), or a.map(items): each returns a list of results"
PERIODIC = "periodic tasks are not built: let cron run `engine send NAME`"
"""What to do instead, wherever Celery is asked for a schedule."""
_IN_CHILD = "write @app.on_child_start for what is to run in each child"
AROUND = (
    "write app.around = ... for what every task needs around it, such as a context of Flask; @app.task(base=...) "
    "gives a task a class of its own"
)
"""What to do instead of giving an app a class for all its tasks."""
_RESULTS_HERE = "a list of results: [result.get(timeout=10) for result in app.send_many(...)]"
_CURRENT = "write: from engine import current_task"
_NO_GROUPS = "there are no chains, groups and chords: headers= carries what a task is to know of the others"
_ON_THE_MESSAGE = "it is not kept here: headers= carries what a task is to know of its call"
_HOOKS = "write it as a method of a base= class"
_FROM = "write the names that are used: from engine import"
_OF_TASK = "it is an option of the task, not of a call"
_OF_CALL = "it is an option of a call: apply_async(..., {}=)"
_STOPS = "`engine stop` ends a worker"
_NO_TRACE = "leave it out: the tasks that a task sends are always in result.children"
_ALWAYS_LATE = "it is always so with acks_late; [worker] max_crashes says how many times"

EXPORTS: Mapping[str, str] = {
    "Celery": "write: from engine import Engine as Celery",
    "chain": _CHAIN,
    "group": _MANY,
    "chord": f"{_MANY}; the last task looks whether the others are done",
    "chunks": _MANY,
    "signature": "write task.s(...), or app.signature(name, args) for a task that is not imported",
    "subtask": "write task.s(...), or app.signature(name, args) for a task that is not imported",
    "maybe_signature": "write task.s(...), or app.signature(name, args) for a task that is not imported",
    "xmap": _MANY,
    "xstarmap": _MANY,
    "uuid": "write: from uuid import uuid4",
    "OperationalError": "write BrokerUnavailable (no broker answers) or BrokerFull (it refuses messages)",
    "ImproperlyConfigured": "write ConfigError",
    "allow_join_result": "write result.get(allow_join=True)",
    "ResultSet": "app.send_many returns a list of results",
    "GroupResult": f"app.send_many returns {_RESULTS_HERE}",
    "schedules": PERIODIC,
    "crontab": PERIODIC,
    "beat": PERIODIC,
    "exceptions": f"{_FROM} Retry, Reject, SoftTimeLimitExceeded",
    "result": f"{_FROM} AsyncResult",
    "canvas": _CHAIN,
    "utils": "write logging.getLogger(__name__) for get_task_logger, uuid4 of uuid for uuid",
    "contrib": "write engine_app, engine_worker (pytest), result.revoke(terminate=True) (AbortableTask), engine_django",
    "get_task_logger": "write logging.getLogger(__name__)",
    "current_worker_task": _CURRENT,
    "bugreport": "run `engine check`",
    "Context": "write task.request: it is there in each task",
    "CeleryError": "write EngineError",
    "TaskPredicate": "write ControlFlow",
    "Terminated": "write TaskRevokedError, which get() raises of a task that was revoked",
    "InvalidTaskError": "write MessageError",
    "AlreadyRegistered": "write ConfigError",
    "NotConfigured": "write ConfigError",
    "QueueNotFound": "leave it out: no queue is declared",
    "ContentDisallowed": "write SerializationError",
    "ChordError": _MANY,
    "BackendError": "write TransportError",
    "BackendGetMetaError": "write TransportError",
    "BackendStoreError": "write TransportError",
    "IncompleteStream": "write TransportError",
    "SecurityError": "messages are not signed: [worker] accept says which serializers are run",
    "WorkerShutdown": _STOPS,
    "WorkerTerminate": _STOPS,
    "denied_join_result": "get() inside a task is refused unless it says allow_join=True",
    "result_from_tuple": "write AsyncResult(id)",
    "ExceptionInfo": "write: from engine.app.failures import ExceptionInfo",
    "signals": "write @app.on_child_start, hooks of a base= class, or an observer plugin",
}
"""Of the package ``engine``."""
OF_THE_APP: Mapping[str, str] = {
    "control": "write app.revoke([id], terminate=True); `engine status`, `engine stop` and `engine reload` do the rest",
    "on_after_configure": f"{PERIODIC}; {_IN_CHILD}",
    "on_after_finalize": f"{PERIODIC}; {_IN_CHILD}",
    "on_configure": _IN_CHILD,
    "add_periodic_task": PERIODIC,
    "Beat": PERIODIC,
    "events": "[plugins] enable names observers, which hear of every task",
    "backend": "app.AsyncResult(id) reads results",
    "connection": "`engine check` tries the broker",
    "worker_main": "run `engine start`",
    "start": "run `engine start`",
    "now": "write datetime.now(UTC)",
    "finalize": "leave it out: tasks are there as soon as they are declared",
    "loader": "app.import_tasks() imports the modules with tasks, as a worker does",
    "main": "write app.name",
    "set_default": "write app.set_current()",
    "current_task": _CURRENT,
    "current_worker_task": _CURRENT,
    "on_after_fork": _IN_CHILD,
    "on_init": _IN_CHILD,
    "GroupResult": f"app.send_many returns {_RESULTS_HERE}",
    "ResultSet": f"app.send_many returns {_RESULTS_HERE}",
    "canvas": _CHAIN,
    "Worker": "run `engine start`; in tests, engine.testing.worker",
    "WorkController": "run `engine start`; in tests, engine.testing.worker",
    "config_from_envvar": "ENGINE_CONFIG names the TOML file: delete this line",
    "config_from_cmdline": "`engine start` has options for all settings: delete this line",
    "add_defaults": "write the settings in the TOML file that ENGINE_CONFIG names",
    "user_options": "options of `engine start` are those of the settings; your own come from the environment",
    "steps": "observers are plugins; @app.on_child_start runs in each child",
    "amqp": "no queue is declared: queue= and [routes] say where a task goes",
    "select_queues": "write [worker] queues in the TOML file, or `engine start --queues`",
    "pool": "an app has its own connections: leave it out",
    "connection_for_read": "`engine check` tries the broker",
    "connection_for_write": "`engine check` tries the broker",
    "connection_or_acquire": "`engine check` tries the broker",
    "producer_or_acquire": "write app.send_task(name, args)",
    "producer_pool": "write app.send_task(name, args)",
    "log": "write logging.getLogger(__name__); [worker] log_level and json_logs",
    "timezone": "times are absolute: write datetime.now(UTC)",
    "gen_task_name": "a task is called module.function, or what name= says",
    "bugreport": "run `engine check`",
    "setup_security": "messages are not signed: [worker] accept says which serializers are run",
    "task_cls": AROUND,
}
"""Of an `Engine`."""
OF_A_TASK: Mapping[str, str] = {
    "chunks": "write task.map(parts), with a task that takes a list",
    "starmap": "write app.send_many([task.s(*args) for args in rows])",
    "replace": "write: return other(...), which runs it here, or other.delay(...), which sends it",
    "subtask": "write task.s(...), or task.signature(args, kwargs)",
    "add_to_chord": "send the task, and keep its id with the others'",
    "backend": "app.AsyncResult(id) reads results",
    "get_logger": "write logging.getLogger(__name__)",
    "send_event": "write self.update_state(state=..., meta=...)",
    "send_events": "[plugins] enable names observers, which hear of every task",
    "push_request": "write task.apply(args, task_id=..., headers=...), which runs it with a request",
    "pop_request": "write task.apply(args, task_id=..., headers=...), which runs it with a request",
    "request_stack": "write task.request",
    "signature_from_request": "write self.retry(...), or self.s(*self.request.args, **self.request.kwargs)",
    "subtask_from_request": "write self.retry(...), or self.s(*self.request.args, **self.request.kwargs)",
    "reject_on_worker_lost": _ALWAYS_LATE,
    "store_eager_result": "leave it out: apply() returns the result",
    "trail": _NO_TRACE,
    "add_trail": _NO_TRACE,
    "compression": "messages are not compressed",
    "from_config": 'write [tasks] or [tasks."name"] in the TOML file',
    "on_bound": "write __init__ of a base= class",
    "shadow_name": "write apply_async(..., shadow=...)",
}
"""Of a `Task`."""
OPTIONS: Mapping[str, str] = {
    "routing_key": "write queue=",
    "exchange": "write queue=",
    "compression": "messages are not compressed: leave it out",
    "connection": "an app has its own connections: leave it out",
    "producer": "an app has its own connections: leave it out",
    "reject_on_worker_lost": _ALWAYS_LATE,
    "track_started": _OF_TASK,
    "acks_late": _OF_TASK,
    "rate_limit": _OF_TASK,
    "retries": "it counts by itself: max_retries= says how many there may be",
    "add_to_parent": _NO_TRACE,
    "trail": _NO_TRACE,
    "correlation_id": "write task_id=",
    "root_id": "it is set by itself: leave it out",
    "parent_id": "it is set by itself: leave it out",
    "group_id": _NO_GROUPS,
    "chord": _NO_GROUPS,
    "reply_to": "result.get() waits for the result: leave it out",
    "delivery_mode": "the broker keeps messages as it keeps its data: leave it out",
    "content_type": "write serializer=",
    "argsrepr": "leave it out: logs do not show arguments",
    "kwargsrepr": "leave it out: logs do not show arguments",
    "stamped_headers": "write headers=",
    "send_events": "leave it out: [plugins] enable names observers",
    "resultrepr_maxsize": "leave it out: logs do not show results",
    "store_eager_result": "leave it out: apply() returns the result",
    "pydantic": "leave it out: what is annotated with a model arrives as the model",
    "shared": "leave it out, or write @shared_task",
    "lazy": "leave it out: a task is there as soon as it is declared",
    "abstract": "leave it out: a base= class is no task",
    "backend": "an app has one result backend: [results] url",
    "run_every": PERIODIC,
    "on_success": _HOOKS,
    "on_failure": _HOOKS,
    "on_retry": _HOOKS,
    "before_start": _HOOKS,
    "after_return": _HOOKS,
    **{name: _OF_CALL.format(name) for name in ("countdown", "eta", "link", "link_error", "task_id", "headers")},
}
"""Of tasks and calls."""
OF_A_REQUEST: Mapping[str, str] = {
    "group": _NO_GROUPS,
    "group_index": _NO_GROUPS,
    "chord": _NO_GROUPS,
    "chain": _NO_GROUPS,
    "callbacks": "the tasks of link= are not told to the task",
    "errbacks": "the tasks of link_error= are not told to the task",
    "argsrepr": "write repr(self.request.args)",
    "kwargsrepr": "write repr(self.request.kwargs)",
    "redelivered": "write self.request.deliveries > 1",
    "ignore_result": "write self.ignore_result, the option of the task",
    "reply_to": _ON_THE_MESSAGE,
    "properties": _ON_THE_MESSAGE,
    "stamps": _ON_THE_MESSAGE,
    "stamped_headers": _ON_THE_MESSAGE,
    "utc": "eta and expires are in UTC",
    "loglevel": "write logging.getLogger().level",
    "logfile": "the log is the engine's stderr",
    "update": "a request is not changed: headers= carries what a task is to know",
    "clear": "a request is not changed: headers= carries what a task is to know",
    "as_execution_options": "write self.retry(...), which keeps the options of the call",
}
"""Of ``self.request``."""
OF_A_RESULT: Mapping[str, str] = {
    "parent": "the task that sent this one is self.request.parent_id, inside of it",
    "args": "arguments are not kept: put into the result what is asked for later",
    "kwargs": "arguments are not kept: put into the result what is asked for later",
    "queue": "`engine result ID` says where a message is",
    "backend": "the methods of a result ask the result backend",
    "collect": "write [child.get() for child in result.children]",
    "iterdeps": "write result.children",
    "get_leaf": "write result.children[0], as often as there are links",
    "graph": "write result.children",
    "build_graph": "write result.children",
    "as_tuple": "write result.id, and AsyncResult(id)",
    "as_list": "write result.id, and AsyncResult(id)",
    "then": "write link=, or await asyncio.to_thread(result.get, timeout=10)",
    "maybe_throw": "write result.get()",
    "maybe_reraise": "write result.get()",
    "throw": "write result.get()",
}
"""Of an `AsyncResult`."""
OF_A_SIGNATURE: Mapping[str, str] = {
    "freeze": "write set(task_id=...)",
    "on_error": "write link_error(...)",
    "replace": "write clone(args, kwargs)",
    "id": "write options.get('task_id')",
    "name": "write task",
    "type": "write app.tasks[signature.task]",
    "stamp": "write set(headers={...})",
}
"""Of a `Signature`."""
KEYWORDS: Mapping[str, str] = {
    "interval": "leave it out: get() is woken when the task has ended",
    "on_interval": "leave it out: get() is woken when the task has ended",
    "on_message": "result.state and result.info show the progress",
    "callback": "result.state and result.info show the progress",
    "no_ack": "leave it out",
    "follow_parents": "leave it out",
    "disable_sync_subtasks": "write allow_join=True",
    "EXCEPTION_STATES": "leave it out",
    "PROPAGATE_STATES": "leave it out",
    "signal": "leave it out: terminate=True interrupts the task, then kills its process",
    "wait": "leave it out: it is recorded at the broker when the call returns",
    "timeout": "leave it out: it is recorded at the broker when the call returns",
    "reply": "leave it out: it is recorded at the broker when the call returns",
    "destination": "leave it out: all workers hear of it",
    "connection": "leave it out: an app has its own connections",
    "task_id": "leave it out: a task writes states of its own run",
    "request": "leave it out: a task writes states of its own run",
}
"""Of arguments of methods."""
OF_AN_ENGINE: Mapping[str, str] = {
    "main": 'write the name first: Engine("shop")',
    "broker_url": "write broker=",
    "result_backend": "write backend=, or [results] url in the TOML file",
    "config_source": "write app.config_from_object(...): it says which lines to write in the TOML file",
    "namespace": "write app.config_from_object(...): it says which lines to write in the TOML file",
    "changes": "write the settings in the TOML file that ENGINE_CONFIG names",
    "set_as_current": "leave it out; app.set_current() makes it the app of shared tasks",
    "task_cls": AROUND,
    "strict_typing": "leave it out, or write @app.task(typing=False)",
    "autofinalize": "leave it out: tasks are there as soon as they are declared",
    "tasks": "leave it out: @app.task adds tasks",
    "fixups": "leave it out; Django's app is engine_django.Engine",
    "control": "write app.revoke([id], terminate=True)",
    "events": "leave it out: [plugins] enable names observers",
    "log": "leave it out: [worker] log_level and json_logs",
    "loader": "leave it out: include= and [engine] include name the modules with tasks",
    "amqp": "leave it out: a broker that is not here is a transport plugin",
}
"""Of the arguments of ``Engine(...)``."""


def refuse_keywords(given: Mapping[str, object], where: str) -> None:
    """Raises TypeError, as Python does for an argument that a function does not take, with what to write instead."""
    for name in given:
        raise TypeError(f"{where}() got an unexpected keyword argument {name!r}{instead(name, KEYWORDS)}")


def instead(name: str, known: Mapping[str, str]) -> str:
    """Returns ``: `` and what to write instead of a name, or "" for one that nobody looks for."""
    return f": {known[name]}" if name in known else ""


def answers(names: Mapping[str, str]) -> Callable[[_Class], _Class]:
    """Decorates a class: an object of it that is asked for one of these names raises AttributeError with what to write
    instead. ``dir`` does not list them.

    Each is an attribute. A ``__getattr__`` would slow down the reading of all attributes that are there: three of them
    were a twentieth of what a task costs its child.
    """

    def decorate(kind: _Class) -> _Class:
        for name, text in names.items():
            setattr(kind, name, _Absent(name, text))
        changed: Any = kind
        listed = changed.__dir__
        changed.__dir__ = lambda self: [name for name in listed(self) if not _is_absent(type(self), name)]
        return kind

    return decorate


class _Absent:
    """Stands for an attribute that is not here. A subclass or an object may have one of the same name."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text

    def __get__(self, owner: object, kind: type) -> NoReturn:
        error = f"{kind.__name__!r} object has no attribute {self._name!r}: {self._text}"
        raise AttributeError(error, name=self._name, obj=owner)


def _is_absent(kind: type, name: str) -> bool:
    return isinstance(next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None), _Absent)
