"""The beat schedule of a Celery project, as lines for cron."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

_FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def cron_lines(schedule: Mapping[Any, Any]) -> list[str]:
    """Returns a line for each entry of ``beat_schedule``; a comment where cron has no words for it."""
    return [_line(entry) for entry in schedule.values() if isinstance(entry, Mapping) and "task" in entry]


def _line(entry: Mapping[str, Any]) -> str:
    command = _command(entry)
    found = _when(entry.get("schedule"))
    if found.startswith("#"):
        return f"{found}: {command}"
    return f"{found} cd /path/to/project && .venv/bin/{command}"


def _command(entry: Mapping[str, Any]) -> str:
    words = ["engine", "send", str(entry["task"]), *map(_json, entry.get("args") or ())]
    if kwargs := entry.get("kwargs"):
        words += ["--kwargs", _json(kwargs)]
    if queue := (entry.get("options") or {}).get("queue"):
        words += ["--queue", str(queue)]
    return shlex.join(words).replace("%", r"\%")  # cron takes a bare % for the end of the line


def _json(value: Any) -> str:
    return json.dumps(value, default=str)


def _when(schedule: Any) -> str:
    fields = [getattr(schedule, f"_orig_{name}", None) for name in _FIELDS]
    if all(field is not None for field in fields):
        return " ".join(str(field).replace(" ", "") for field in fields)
    every = getattr(schedule, "run_every", schedule)
    seconds = every.total_seconds() if isinstance(every, timedelta) else every
    if not isinstance(seconds, (int, float)):
        return f"# {schedule}"
    return _every(seconds)


def _every(seconds: float) -> str:
    for length, most, fields in ((_MINUTE, 60, "{} * * * *"), (_HOUR, 24, "0 {} * * *"), (_DAY, 1, "0 0 * * *")):
        count = seconds / length
        if count.is_integer() and most % count == 0 and count < max(most, 2):
            return fields.format("*" if count == 1 else f"*/{count:.0f}")
    return f"# every {seconds:g} s, for a systemd timer (OnUnitActiveSec={seconds:g})"
