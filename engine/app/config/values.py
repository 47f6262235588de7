"""One value of one setting: from what was written to what the schema wants, or an error that says where and why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, get_args

import msgspec

from engine.app.config.durations import DURATION, SIZE, UNITS, exact, rate, seconds, size
from engine.app.config.urls import check_url, readable
from engine.app.settings import (
    BrokerSection,
    Duration,
    EngineSection,
    PluginsSection,
    ResultsSection,
    Size,
    TaskSection,
    WorkerSection,
)
from engine.errors import ConfigError

Path: TypeAlias = tuple[str, ...]
"""Of a setting: ("worker", "concurrency"), ("tasks", "documents.process", "rate_limit"), ("routes", "reports.*")."""

SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "engine": EngineSection,
    "broker": BrokerSection,
    "results": ResultsSection,
    "worker": WorkerSection,
    "tasks": TaskSection,
    "plugins": PluginsSection,
}
"""The sections that are declared; ``[routes]`` holds patterns."""
OPEN = frozenset({"broker", "results"})
"""Sections whose further keys belong to a plugin."""
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SECRET = re.compile(r"pass(word|wd)|secret|token", re.IGNORECASE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Value:
    """What somebody wrote for one setting, and where."""

    path: Path
    raw: Any
    origin: str
    """``conf/worker.toml:12``, ``ENGINE_WORKER_CONCURRENCY`` or ``--concurrency``."""
    source: str
    """``file``, ``env``, ``option`` or ``code``. From the text of env and option, numbers and lists are read."""

    def error(self, problem: str) -> str:
        """Returns the sentence for an error in this value."""
        where = f"{self.origin}: [{dotted(self.path[:-1])}] {self.path[-1]}" if self.source == "file" else self.origin
        return f"{where}: {problem}"


def keys_of(section: str) -> Mapping[str, Any]:
    """Returns the keys of a section with their types."""
    fields = msgspec.structs.fields(SECTIONS[section])
    return {field.name: field.type for field in fields if field.name not in ("options", "origins")}


def dotted(path: Path) -> str:
    """Returns the path as TOML writes it: ``tasks."documents.process".rate_limit``."""
    return ".".join(part if _BARE.fullmatch(part) else f'"{part}"' for part in path)


def convert(value: Value) -> Any:
    """Returns the value as its setting's type. Raises ConfigError that names place, key and what is expected."""
    section, key = value.path[0], value.path[-1]
    type_ = str if section == "routes" else keys_of(section)[key]
    raw = value.raw
    if raw == "none" and type(None) in get_args(type_):
        return None
    try:
        result = _convert(raw, type_, value.source in ("env", "option"))
        if check := _filled if section == "routes" else _CHECKS.get(key):
            result = check(result)
    except msgspec.ValidationError as error:
        raise ConfigError(value.error(_problem(error, raw, type_))) from None
    except ValueError as error:
        raise ConfigError(value.error(str(error))) from None
    return result


def from_text(raw: Any, type_: Any) -> Any:
    """Returns a plugin's option as ``type_``. A float takes the text of durations, an int that of sizes. Raises
    ValueError that says what is expected."""
    if type_ is bool:
        return _convert(raw, bool, True)
    if type_ is float:
        return seconds(raw)
    if type_ is int and isinstance(raw, str):
        return size(raw)
    try:
        return _convert(raw, type_, True)
    except msgspec.ValidationError as error:
        raise ValueError(_problem(error, raw, type_)) from None


def decode_hook(type_: type, raw: Any) -> Any:
    """Makes Duration and Size for msgspec."""
    if type_ is Duration:
        return Duration(seconds(raw))
    if type_ is Size:
        return Size(size(raw))
    raise NotImplementedError(type_)


def toml(path: Path, value: Any) -> str:
    """Returns a setting's value as TOML would write it; None, which TOML has not, as "none". URLs are shown without
    passwords, and so are a plugin's options that are called like one."""
    if value is None:
        return '"none"'
    if _SECRET.search(path[-1]) and path[0] in OPEN:
        return '"***"'
    if isinstance(value, Duration):
        return f'"{exact(value)}"'
    if isinstance(value, Size):
        return f'"{_bytes(value)}"'
    if isinstance(value, str):
        return json.dumps(readable(value) if path[-1] == "url" else value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _convert(raw: Any, type_: Any, text: bool) -> Any:
    if text and isinstance(raw, str) and _takes(type_, list):
        raw = _listed(raw)
    if text and _takes(type_, bool) and isinstance(raw, str):
        raw = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(raw.lower(), raw)
    # A timedelta is something that only code can give; msgspec would turn it into ISO text before the hook sees it.
    if isinstance(raw, timedelta):
        raw = raw.total_seconds()
    return msgspec.convert(raw, type_, strict=not text, dec_hook=decode_hook)


def _listed(text: str) -> list[Any]:
    """Reads "a, b", and what TOML and JSON write: '["a", "b"]'."""
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            raise ValueError(f"expected a list such as a,b, got {_shown(text)}") from None
        return list(found)
    return [part.strip() for part in text.split(",") if part.strip()]


def _takes(type_: Any, kind: type) -> bool:
    return any(member is kind or getattr(member, "__origin__", None) is kind for member in (type_, *get_args(type_)))


def _problem(error: msgspec.ValidationError, raw: Any, type_: Any) -> str:
    """Says in the reader's words what msgspec says in Python's."""
    cause = error.__cause__
    if isinstance(cause, ValueError):
        return str(cause)
    text = str(error)
    if limit := re.search(r"Expected `int` (>=|<=) (-?\d+)", text):
        word = "at least" if limit[1] == ">=" else "at most"
        return f"expected a whole number of {word} {limit[2]}, got {_shown(raw)}"
    if "matching regex" in text:
        return f"expected 1 to 64 letters, digits, dots, dashes and underscores, got {_shown(raw)}"
    return f"expected {_expected(type_)}, got {_shown(raw)}"


def _expected(type_: Any) -> str:
    for kind, words in _WORDS.items():
        if _takes(type_, kind) or any(_takes(member, kind) for member in get_args(type_)):
            return words
    return str(type_)


def _shown(raw: Any) -> str:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    text = f'"{raw}"' if isinstance(raw, str) else str(raw)
    return text if len(text) <= 60 else text[:57] + "..."


def _bytes(value: int) -> str:
    """The size with the unit that makes its number shortest, without a loss."""
    written = [f"{value // factor}{unit}" for unit, factor in UNITS.items() if value % factor == 0]
    return min(written, key=len) if value else "0"


def _level(value: str) -> str:
    if value.upper() not in LOG_LEVELS:
        raise ValueError(f"expected one of {', '.join(LOG_LEVELS)}, got {_shown(value)}")
    return value.upper()


def _above_zero(value: float | None) -> float | None:
    if value is not None and value <= 0:
        raise ValueError('expected more than 0 seconds; "none" switches it off where it can be')
    return value


def _filled(value: Any) -> Any:
    if not value or not all(value):
        raise ValueError("must not be empty")
    return value


def _rate(value: Any) -> Any:
    if value is not None:
        rate(value)
    return value


def _url(value: str | None) -> str | None:
    return None if value is None else check_url(value)


_WORDS: dict[Any, str] = {
    bool: "true or false",
    Duration: DURATION,
    Size: SIZE,
    list: 'a list such as ["a", "b"]',
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
}
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "log_level": _level,
    "time_limit": _above_zero,
    "soft_time_limit": _above_zero,
    "expires": _above_zero,
    "dead_after": _above_zero,
    "queues": _filled,
    "queue": _filled,
    "accept": _filled,
    "rate_limit": _rate,
    "url": _url,
}
