"""Where Celery projects keep their settings: a module, an object or a dict, and the names of two epochs in it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from engine.app.old_settings import EAGER, INSTEAD, MOVED
from engine.errors import ConfigError

_FORMER: Mapping[str, str] = {
    "celery_result_backend": "result_backend",
    "celery_task_result_expires": "result_expires",
    "celery_accept_content": "accept_content",
    "celery_task_serializer": "task_serializer",
    "celery_result_serializer": "result_serializer",
    "celery_always_eager": "task_always_eager",
    "celery_eager_propagates_exceptions": "task_eager_propagates",
    "celery_acks_late": "task_acks_late",
    "celery_track_started": "task_track_started",
    "celery_ignore_result": "task_ignore_result",
    "celery_store_errors_even_if_ignored": "task_store_errors_even_if_ignored",
    "celery_annotations": "task_annotations",
    "celery_routes": "task_routes",
    "celery_queues": "task_queues",
    "celery_default_queue": "task_default_queue",
    "celery_default_exchange": "task_default_exchange",
    "celery_default_routing_key": "task_default_routing_key",
    "celery_default_rate_limit": "task_default_rate_limit",
    "celery_create_missing_queues": "task_create_missing_queues",
    "celery_imports": "imports",
    "celery_include": "include",
    "celery_timezone": "timezone",
    "celery_enable_utc": "enable_utc",
    "celery_send_events": "worker_send_task_events",
    "celery_send_task_sent_event": "task_send_sent_event",
    "celeryd_concurrency": "worker_concurrency",
    "celeryd_prefetch_multiplier": "worker_prefetch_multiplier",
    "celeryd_max_tasks_per_child": "worker_max_tasks_per_child",
    "celeryd_task_time_limit": "task_time_limit",
    "celeryd_task_soft_time_limit": "task_soft_time_limit",
    "celeryd_hijack_root_logger": "worker_hijack_root_logger",
    "celeryd_log_format": "worker_log_format",
    "celeryd_task_log_format": "worker_task_log_format",
    "celerybeat_schedule": "beat_schedule",
    "celerybeat_scheduler": "beat_scheduler",
}
"""The names before Celery 4, which it still reads, by those that followed."""
_EPOCHS = ("celery_", "celeryd_", "celerybeat_")


def found_in(given: Any, namespace: str | None) -> dict[str, Any]:
    """Returns the settings that an argument of ``config_from_object`` holds, under their lower-case names: a module, an
    object or a dict, or the path of one. With a namespace all that begin with it, else those that are Celery's by their
    names. Raises ConfigError when the path leads nowhere."""
    holder = _at(given) if isinstance(given, str) else given
    names = list(holder) if isinstance(holder, Mapping) else dir(holder)
    prefix = f"{namespace.rstrip('_')}_" if namespace else ""
    found: dict[str, Any] = {}
    for name in map(str, names):
        if name.startswith(prefix) if prefix else is_old(name):
            value = holder[name] if isinstance(holder, Mapping) else getattr(holder, name)
            found[modern(name[len(prefix) :])] = value
    return found


def is_old(name: str) -> bool:
    """Is this the name of a setting of Celery's, of whichever epoch, as it stands in a module of settings?"""
    lower = name.lower()
    return lower in MOVED or lower in INSTEAD or lower in EAGER or (name.isupper() and lower.startswith(_EPOCHS))


def modern(name: str) -> str:
    """Returns the lower-case name that a setting has in Celery today."""
    lower = name.lower()
    return _FORMER.get(lower, lower)


def _at(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        holder = importlib.import_module(module)
        return getattr(holder, attribute) if attribute else holder
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"config_from_object({path!r}): {error}; {_advice(error)}") from error


def _advice(error: Exception) -> str:
    missing = getattr(error, "name", None) or ""
    if isinstance(error, ImportError) and missing.partition(".")[0] in ("celery", "kombu"):
        return (
            f"its settings can be read while Celery is installed: pip install {missing.partition('.')[0]}, "
            "and uninstall it when they are moved"
        )
    return "settings are in the TOML file that ENGINE_CONFIG names: delete this line when nothing is left to move"
