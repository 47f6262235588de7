"""Names that Celery users look for and that are not here, each with what to write instead."""

from __future__ import annotations

from collections.abc import Mapping

_CHAIN = "write a.apply_async(..., link=b.s()); a link may have a link: b.s().link(c.s())"
_MANY = "write app.send_many([a.s(1), a.s(2)]), or a.map(items)"
PERIODIC = "periodic tasks are not built: let cron run `engine send NAME`"
"""What to do instead, wherever Celery is asked for a schedule."""
_IN_CHILD = "write @app.on_child_start for what is to run in each child"

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
    "GroupResult": "app.send_many returns a list of results",
    "schedules": PERIODIC,
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
}
"""Of a `Task`."""
OPTIONS: Mapping[str, str] = {
    "routing_key": "write queue=",
    "exchange": "write queue=",
    "compression": "messages are not compressed: leave it out",
    "connection": "an app has its own connections: leave it out",
    "producer": "an app has its own connections: leave it out",
    "reject_on_worker_lost": "it is always so with acks_late; [worker] max_crashes says how many times",
    "track_started": "it is an option of the task, not of a call",
    "acks_late": "it is an option of the task, not of a call",
    "rate_limit": "it is an option of the task, not of a call",
}
"""Of tasks and calls."""


def instead(name: str, known: Mapping[str, str]) -> str:
    """Returns ``: `` and what to write instead of a name, or "" for one that nobody looks for."""
    return f": {known[name]}" if name in known else ""
