"""What a call's options become in its message."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from engine.app.config.durations import seconds
from engine.app.forks import after_fork
from engine.app.options import CALL_NAMES, check_call_limits, check_names, countdown_of, retries_of
from engine.contract.message import MAX_ID
from engine.errors import SerializationError


def new_id() -> str:
    """Returns a new task id: the text of a UUID of version 7 (RFC 9562), milliseconds followed by random bits. Safe
    across forks. Ids that grow with time go to the same end of a broker's index; random ones dirty a page each."""
    when = f"{time.time_ns() // 1_000_000:012x}"
    text = os.urandom(10).hex()
    return f"{when[:8]}-{when[8:]}-7{text[:3]}-a{text[3:6]}-{text[6:18]}"


def check_call(options: Mapping[str, Any], where: str) -> None:
    """Raises TypeError for an option that ``apply_async`` does not know."""
    check_names(options, CALL_NAMES, where)


def arguments(args: Any, kwargs: Any, where: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments that a call was given. Raises TypeError, saying what to write, for a single value in the
    place of a list: text would be taken apart into its characters."""
    is_list = args is None or isinstance(args, (tuple, list))
    if not is_list and (isinstance(args, (str, bytes)) or not isinstance(args, Iterable)):
        raise TypeError(f"{where}: args must be a list or a tuple: write ({args!r},)")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"{where}: kwargs must be a dict, not {type(kwargs).__name__}")
    return tuple(args or ()), dict(kwargs or {})


def fields_of(options: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Returns the fields of a `Message` that the options set. ``link`` and ``link_error`` are not among them.

    Raises TypeError or ValueError for a value that does not fit.
    """
    fields: dict[str, Any] = {}
    for name, read in _READERS.items():
        if options.get(name) is not None:
            fields[name] = read(options[name], now)
    if "max_retries" in options:
        fields["max_retries"] = retries_of(options["max_retries"])
    if options.get("countdown") is not None:
        fields["eta"] = now + countdown_of(options["countdown"])
    if options.get("task_id") is not None:
        fields["id"] = _checked_id(options["task_id"])
    check_call_limits(fields.get("time_limit"), fields.get("soft_time_limit"))
    return fields


def moment(value: datetime, now: float) -> float:
    """Returns a datetime as seconds since the epoch; a naive one is UTC."""
    if not isinstance(value, datetime):
        raise TypeError(f"expected a datetime, got {type(value).__name__}: use countdown for seconds from now")
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def origin() -> str:
    """Returns ``pid@host`` of this process."""
    return _origin.text


class _Origin:
    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.text = f"{os.getpid()}@{socket.gethostname()}"


_origin = _Origin()
after_fork(_origin.renew)


def _eta(value: Any, now: float) -> float:
    return max(now, moment(value, now))


def _expires(value: Any, now: float) -> float:
    return moment(value, now) if isinstance(value, datetime) else now + countdown_of(value)


def _limit(value: Any, now: float) -> float:
    limit = seconds(value)
    if limit <= 0:
        raise ValueError("a time limit must be above 0 seconds")
    return limit


def _priority(value: Any, now: float) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
        raise ValueError(f"priority {value!r} is not 0..9 (9 first)")
    return value


def _flag(value: Any, now: float) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"ignore_result must be True or False, not {value!r}")
    return value


def _text(name: str) -> Callable[[Any, float], str]:
    def read(value: Any, now: float) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be text, not {value!r}")
        if not value:
            raise ValueError(f"{name} must not be empty: leave it out, or say None")
        return value

    return read


def _headers(value: Any, now: float) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"headers must be a dict, got {type(value).__name__}")
    return dict(value)


def _checked_id(value: Any) -> str:
    text = str(value)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise SerializationError("task_id holds characters that UTF-8 cannot carry") from None
    if not 1 <= size <= MAX_ID:
        raise ValueError(f"task_id must have 1 to {MAX_ID} bytes, got {size}")
    return text


_READERS: dict[str, Callable[[Any, float], Any]] = {
    "eta": _eta,
    "expires": _expires,
    "priority": _priority,
    "time_limit": _limit,
    "soft_time_limit": _limit,
    "headers": _headers,
    "ignore_result": _flag,
    "queue": _text("queue"),
    "serializer": _text("serializer"),
    "shadow": _text("shadow"),
}
