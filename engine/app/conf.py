"""``app.conf``: settings under the names that Celery users know, answered with what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from engine.app.nearest import did_you_mean
from engine.app.registry import App
from engine.errors import ConfigError

_EAGER = ("task_always_eager", "task_eager_propagates")
_MOVED: Mapping[str, tuple[str, str]] = {
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
_INSTEAD: Mapping[str, str] = {
    "task_routes": 'write [routes] in the TOML file: "reports.*" = "slow"',
    "task_queues": 'no queue is declared: write [worker] queues = ["default", "slow"] for those to fetch from',
    "task_annotations": 'write [tasks."name"] in the TOML file, with the options of that task',
    "task_reject_on_worker_lost": "it is always so with acks_late; [worker] max_crashes says how many times",
    "beat_schedule": "periodic tasks are not built: let cron run `engine send NAME`",
    "broker_transport_options": "write the options beside url under [broker]",
    "result_backend_transport_options": "write the options beside url under [results]",
    "worker_prefetch_multiplier": "leave it out: what no child begins within a second goes back to the broker",
    "visibility_timeout": "there is none: a message stays claimed while its worker lives, however long it runs",
    "broker_connection_retry_on_startup": "leave it out: a broker that goes away is always tried again",
    "timezone": "leave it out: times are absolute; a naive datetime is UTC",
    "enable_utc": "leave it out: times are absolute; a naive datetime is UTC",
    "task_create_missing_queues": "leave it out: queues need no declaration",
    "task_protocol": "leave it out",
    "worker_hijack_root_logger": "leave it out: a root logger that the app configured is left alone",
    "worker_send_task_events": "leave it out: [plugins] enable names observers",
    "task_send_sent_event": "leave it out: [plugins] enable names observers",
}


class Conf:
    """Stands where Celery has its settings. ``task_always_eager`` and ``task_eager_propagates`` can be read and set, as
    tests do; any other name raises ConfigError that says which TOML line to write."""

    def __init__(self, app: App) -> None:
        object.__setattr__(self, "_app", app)

    def update(self, *given: Mapping[str, Any], **names: Any) -> None:
        """Sets several names. Raises one ConfigError for all that have another place, with the lines to write."""
        refused: dict[str, Any] = {}
        for values in (*given, names):
            for name, value in values.items():
                if name in _EAGER:
                    setattr(self, name, value)
                else:
                    refused[name] = value
        if refused:
            raise _refusal(*refused.popitem()) if len(refused) == 1 else _refusal_of_all(refused)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _EAGER:
            setattr(self._app, name, bool(value))
            return
        raise _refusal(name, value)

    def __getattr__(self, name: str) -> Any:
        if name in _EAGER:
            return getattr(self._app, name)
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _MOVED:
            section, key = _MOVED[name]
            raise ConfigError(f"app.conf.{name}: it is [{section}] {key} here; app.settings.{section}.{key} reads it")
        raise _refusal(name, None)

    __setitem__ = __setattr__
    __getitem__ = __getattr__


def line(name: str, value: Any) -> str | None:
    """Returns the TOML lines for an old setting; None when it has no place in the file."""
    if name not in _MOVED:
        return None
    section, key = _MOVED[name]
    return f"[{section}]\n{key} = {_toml(value)}"


def _refusal(name: str, value: Any) -> ConfigError:
    if text := line(name, value):
        shown = " ".join(text.split("\n"))
        return ConfigError(f"app.conf.{name}: settings are not in code here; write in the TOML file: {shown}")
    if name in _INSTEAD:
        return ConfigError(f"app.conf.{name}: {_INSTEAD[name]}")
    hint = did_you_mean(name, [*_MOVED, *_INSTEAD, *_EAGER])
    return ConfigError(f"app.conf.{name}: there is no such setting{hint or '; docs/configuration.md lists all'}")


def _refusal_of_all(refused: Mapping[str, Any]) -> ConfigError:
    sections: dict[str, list[str]] = {}
    others: list[str] = []
    for name, value in refused.items():
        if name in _MOVED:
            section, key = _MOVED[name]
            sections.setdefault(section, []).append(f"{key} = {_toml(value)}")
        else:
            others.append(str(_refusal(name, value)))
    lines = [text for section, keys in sections.items() for text in (f"[{section}]", *keys)]
    if lines:
        lines.insert(0, "app.conf: settings are not in code here; write in the TOML file:")
    return ConfigError("\n".join([*lines, *others]))


def _toml(value: Any) -> str:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (set, tuple, frozenset)):
        value = list(value)
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError):
        return "..."
