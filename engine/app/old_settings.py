"""The settings of Celery projects: where each one went, and how a value is written in the TOML file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from engine.app.absent import PERIODIC
from engine.errors import ConfigError

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
_ABSOLUTE = "leave it out: times are absolute; a naive datetime is UTC"
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
    "worker_pool": "leave it out: tasks run in processes, `async def` ones too",
    "worker_state_db": "leave it out: revocations are kept at the broker",
    "worker_cancel_long_running_tasks_on_connection_loss": "leave it out: tasks go on, and their ends are stored later",
}
"""What is said instead, of what has no line in the file that says the same."""
_MEMORY = "worker_max_memory_per_child"


def lines(name: str, value: Any) -> tuple[str, list[str]] | None:
    """Returns the TOML section and the lines in it for an old setting and its value; None when it has none."""
    if value is None:
        return None
    if name in MOVED:
        section, key = MOVED[name]
        return section, [f"{key} = {_toml(_converted(name, value))}"]
    if name == "task_routes" and isinstance(value, Mapping):
        routes = {pattern: to.get("queue") if isinstance(to, Mapping) else to for pattern, to in value.items()}
        if routes and all(isinstance(queue, str) for queue in routes.values()):
            return "routes", [f"{_toml(str(pattern))} = {_toml(queue)}" for pattern, queue in routes.items()]
    if name == "task_queues" and isinstance(value, Iterable) and not isinstance(value, str):
        queues = [getattr(queue, "name", queue) for queue in value]
        if queues and all(isinstance(queue, str) for queue in queues):
            return "worker", [f"queues = {_toml(queues)}"]
    return None


def found_in(given: Any, namespace: str | None) -> dict[str, Any]:
    """Returns the settings that an argument of ``config_from_object`` holds, under their lower-case names: a module, an
    object or a dict, or the path of one. With a namespace all that begin with it, else those that are known here.
    Raises ConfigError when the path leads nowhere."""
    holder = _at(given) if isinstance(given, str) else given
    names = list(holder) if isinstance(holder, Mapping) else dir(holder)
    prefix = f"{namespace.rstrip('_')}_" if namespace else ""
    found: dict[str, Any] = {}
    for name in names:
        old = str(name)[len(prefix) :].lower()
        if str(name).startswith(prefix) if prefix else old in MOVED or old in INSTEAD or old in EAGER:
            found[old] = holder[name] if isinstance(holder, Mapping) else getattr(holder, name)
    return found


def _at(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        holder = importlib.import_module(module)
        return getattr(holder, attribute) if attribute else holder
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"config_from_object({path!r}): {error}; settings are in the TOML file that ENGINE_CONFIG names: "
            "delete this line when nothing is left to move"
        ) from error


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
