"""The settings of Celery projects: where each one went, and how its value is written in the TOML file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from engine.app.absent import PERIODIC
from engine.app.nearest import did_you_mean
from engine.app.old_schedules import cron_lines

Lines: TypeAlias = Mapping[str, list[str]]
"""Lines of a TOML file, by the section that they belong to."""

EAGER = ("task_always_eager", "task_eager_propagates")
"""What stays in code, for tests."""
MOVED: Mapping[str, tuple[str, str]] = {
    "broker_url": ("broker", "url"),
    "result_backend": ("results", "url"),
    "result_expires": ("results", "expires"),
    "worker_concurrency": ("worker", "concurrency"),
    "worker_max_tasks_per_child": ("worker", "max_tasks_per_child"),
    "worker_max_memory_per_child": ("worker", "max_memory_per_child"),
    "accept_content": ("worker", "accept"),
    "task_acks_late": ("tasks", "acks_late"),
    "task_acks_on_failure_or_timeout": ("tasks", "acks_on_failure_or_timeout"),
    "task_time_limit": ("tasks", "time_limit"),
    "task_soft_time_limit": ("tasks", "soft_time_limit"),
    "task_default_rate_limit": ("tasks", "rate_limit"),
    "task_ignore_result": ("tasks", "ignore_result"),
    "task_store_errors_even_if_ignored": ("tasks", "store_errors_even_if_ignored"),
    "task_track_started": ("tasks", "track_started"),
    "task_default_queue": ("tasks", "queue"),
    "task_default_priority": ("tasks", "priority"),
    "task_serializer": ("tasks", "serializer"),
    "result_serializer": ("tasks", "serializer"),
    "imports": ("engine", "include"),
    "include": ("engine", "include"),
}
"""Section and key of what has another name here."""
_ABSOLUTE = "leave it out: a naive datetime is UTC; give eta= and expires= one with its zone, datetime.now(UTC)"
_OBSERVERS = "leave it out: [plugins] enable names observers"
_NO_EXCHANGE = "leave it out: a queue is all there is; task_default_queue is [tasks] queue"
_SENDING = "leave it out: a send is tried three times; retry= and retry_policy= at the call say otherwise"
_RECONNECTS = "leave it out: a broker that goes away is always tried again"
_LOGGING = "leave it out: [worker] log_level and json_logs; a logger that the app configured is left alone"
_TLS = "write rediss:// or amqps:// in the url, and ca_file, cert_file, key_file beside it"
_POOL = "leave it out: children hold no connections, and other processes one each"
_NO_TIMEOUT = "there is none: a message stays claimed while its worker lives, however long it runs"
INSTEAD: Mapping[str, str] = {
    "task_routes": 'write [routes] in the TOML file: "reports.*" = "slow"',
    "task_queues": 'no queue is declared: write [worker] queues = ["default", "slow"] for those to fetch from',
    "task_annotations": 'write [tasks."name"] in the TOML file, with the options of that task',
    "task_reject_on_worker_lost": "it is always so with acks_late; [worker] max_crashes says how many times",
    "beat_schedule": PERIODIC,
    "beat_scheduler": PERIODIC,
    "broker_transport_options": f"write the options beside url under [broker]; visibility_timeout: {_NO_TIMEOUT}",
    "result_backend_transport_options": "write the options beside url under [results]",
    "worker_prefetch_multiplier": "leave it out: what no child begins within a second goes back to the broker",
    "visibility_timeout": _NO_TIMEOUT,
    "broker_connection_retry": _RECONNECTS,
    "broker_connection_retry_on_startup": _RECONNECTS,
    "broker_connection_max_retries": _RECONNECTS,
    "broker_connection_timeout": "write timeout beside url under [broker], on Redis; RabbitMQ has its heartbeat",
    "broker_heartbeat": "write heartbeat beside url under [broker], on RabbitMQ",
    "broker_use_ssl": _TLS,
    "redis_backend_use_ssl": _TLS,
    "broker_pool_limit": _POOL,
    "redis_max_connections": _POOL,
    "timezone": _ABSOLUTE,
    "enable_utc": _ABSOLUTE,
    "task_create_missing_queues": "leave it out: queues need no declaration",
    "task_default_exchange": _NO_EXCHANGE,
    "task_default_exchange_type": _NO_EXCHANGE,
    "task_default_routing_key": _NO_EXCHANGE,
    "task_queue_max_priority": "leave it out: every queue has the priorities 0 to 9",
    "task_protocol": "leave it out",
    "task_publish_retry": _SENDING,
    "task_publish_retry_policy": _SENDING,
    "task_compression": "leave it out: messages are not compressed",
    "result_compression": "leave it out: results are not compressed",
    "result_persistent": "leave it out: results are kept as the result backend keeps its data",
    "result_extended": "leave it out: a result has the name of its task; log arguments in the task",
    "worker_hijack_root_logger": _LOGGING,
    "worker_log_format": _LOGGING,
    "worker_task_log_format": _LOGGING,
    "worker_redirect_stdouts": "leave it out: what tasks print goes where the engine's output goes",
    "worker_send_task_events": _OBSERVERS,
    "task_send_sent_event": _OBSERVERS,
    "cache_backend": "leave it out: results are kept where [results] url says",
    "result_cache_max": "leave it out: a result keeps its end once it was read",
    "worker_disable_rate_limits": "leave it out, and the rate limits",
    "worker_enable_remote_control": "leave it out: `engine status` asks the engine of this host",
    "control_queue_ttl": "leave it out",
    "event_queue_ttl": _OBSERVERS,
    "event_queue_expires": _OBSERVERS,
    "worker_log_color": "leave it out: the log is in colour on a terminal",
    "worker_redirect_stdouts_level": "leave it out: what tasks print goes where the engine's output goes",
    "security_key": "leave it out: messages are not signed",
    "task_inherit_parent_priority": "write priority= at the call",
    "task_remote_tracebacks": "leave it out: a traceback always comes along",
    "task_allow_error_cb_on_chord_header": "leave it out: there are no chords",
    "result_chord_join_timeout": "leave it out: there are no chords",
    "worker_pool": "leave it out: tasks run in processes, `async def` ones too",
    "worker_state_db": "leave it out: revocations are kept at the broker",
    "worker_cancel_long_running_tasks_on_connection_loss": "leave it out: tasks go on, and their ends are stored later",
}
"""What is said instead, of what has no line in the file that says the same."""
_MEMORY = "worker_max_memory_per_child"
_SCHEMES = {
    "pyamqp": "amqp",
    "librabbitmq": "amqp",
    "redis+socket": "redis+unix",
    "db+sqlite": "sqlite",
    "sqla+sqlite": "sqlite",
}
"""Schemes of URLs that have another name here."""
_AMQP = ("amqp", "amqps")


def answer(name: str, value: Any) -> str:
    """Returns what to do about one old setting: the lines to write, or what takes its place."""
    if found := lines(name, value):
        (comment, *_), *others = found.values()
        if not others and comment.startswith("# "):
            return comment.removeprefix("# ")
        parts = [text for section, keys in found.items() for text in (f"[{section}]", *keys)]
        text = " ".join(parts) if len(parts) == 2 else "\n".join(["", *parts])
        return f"settings are not in code here; write in the TOML file: {text}"
    if value and (found_lines := _periodic(name, value)):
        return "\n".join([f"{INSTEAD[name]}. For cron, in this machine's time:", *found_lines])
    if name in INSTEAD:
        return INSTEAD[name]
    if name in MOVED:
        section, key = MOVED[name]
        return f"leave it out: without the line, [{section}] {key} has its default"
    hint = did_you_mean(name, [*MOVED, *INSTEAD, *EAGER])
    return f"there is no such setting{hint or '; docs/configuration.md lists all'}"


def lines(name: str, value: Any) -> Lines | None:
    """Returns the lines of the TOML file for an old setting and its value; None when it has none."""
    if value is None:
        return None
    if name in MOVED:
        section, key = MOVED[name]
        if key == "url":
            return {section: [_url_line(section, str(value))]}
        return {section: [f"{key} = {_toml(_converted(name, value))}"]}
    if name == "task_routes" and (pairs := _routes(value)):
        routes = {pattern: to.get("queue") if isinstance(to, Mapping) else to for pattern, to in pairs}
        if routes and all(isinstance(queue, str) for queue in routes.values()):
            return {"routes": [f"{_toml(str(pattern))} = {_toml(queue)}" for pattern, queue in routes.items()]}
    if name == "task_queues" and isinstance(value, Iterable) and not isinstance(value, str):
        queues = [getattr(queue, "name", queue) for queue in value]
        if queues and all(isinstance(queue, str) for queue in queues):
            return {"worker": [f"queues = {_toml(queues)}"]}
    if name == "task_annotations" and isinstance(value, Mapping):
        return _annotations(value)
    return None


def _routes(value: Any) -> list[tuple[Any, Any]]:
    """Returns the pairs of pattern and place in all forms that Celery takes, but for functions."""
    if isinstance(value, Mapping):
        return list(value.items())
    if not isinstance(value, (list, tuple)):
        return []
    if len(value) == 2 and isinstance(value[0], str):
        return [(value[0], value[1])]
    found = [_routes(one) for one in value]
    return [pair for pairs in found for pair in pairs] if all(found) else []


def _annotations(value: Mapping[Any, Any]) -> Lines | None:
    if not value or not all(isinstance(options, Mapping) for options in value.values()):
        return None
    return {
        "tasks" if task == "*" else f"tasks.{_toml(str(task))}": [
            f"{key} = {_toml(one)}" for key, one in options.items()
        ]
        for task, options in value.items()
    }


def _periodic(name: str, value: Any) -> list[str]:
    return cron_lines(value) if name == "beat_schedule" and isinstance(value, Mapping) else []


def _url_line(section: str, url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"url = {_toml(url)}"
    if parts.password:
        return f"# url has a password: set ENGINE_{section.upper()}_URL where the engine and its senders are started"
    scheme = _SCHEMES.get(parts.scheme, parts.scheme)
    if not parts.scheme or (parts.scheme == "cache+memory"):
        return f"# {url} is not here: write a url such as redis://localhost/1 or sqlite:////var/lib/results.db"
    rest = url[len(parts.scheme) :]
    if scheme in _AMQP and parts.path == "//":
        rest = rest[:-1]
    return f"url = {_toml(scheme + rest)}"


def _converted(name: str, value: Any) -> Any:
    if name == _MEMORY and isinstance(value, int):
        return f"{value}KiB"  # Celery counts kibibytes
    if name == "accept_content" and isinstance(value, (list, tuple, set, frozenset)):
        return [str(kind).removeprefix("application/").removeprefix("x-") for kind in value]
    return value


def _toml(value: Any) -> str:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (set, tuple, frozenset)):
        value = list(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return "..."
