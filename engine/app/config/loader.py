"""Reads the settings: what the code says, then a TOML file, then the environment, then the command line, the later the
stronger. It keeps where every value came from, and finds all mistakes at once.

The environment: ``ENGINE_CONFIG`` names the file; ``ENGINE_<SECTION>_<KEY>`` sets a key, those of ``[engine]`` are
``ENGINE_<KEY>``: ``ENGINE_WORKER_CONCURRENCY``, ``ENGINE_APP``. Lists are written with commas; "none" is no value.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import msgspec
from msgspec import UNSET

from engine.app.config.durations import brief
from engine.app.config.sources import from_environment, from_file, from_options
from engine.app.config.values import OPEN, SECTIONS, Path, Value, convert, decode_hook, dotted, keys_of, toml
from engine.app.options import built_in
from engine.app.settings import BrokerSection, ResultsSection, Settings, TaskSection
from engine.errors import ConfigError

DEFAULT_FILES = ("worker.toml", "conf/worker.toml")
"""Where `engine` looks when neither ``-c`` nor ``ENGINE_CONFIG`` names a file."""
_SOURCES = ("file", "env", "option")


@dataclass(frozen=True)
class Config:
    """Settings, and where they came from."""

    settings: Settings
    origins: Mapping[str, str]
    """For each dotted key (``worker.concurrency``, ``tasks."documents.process".rate_limit``): ``conf/worker.toml:12``,
    the name of a variable or option, "code" or "default"."""
    path: File | None = None
    """The file that was read."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What the command line set."""
    code: Settings | None = None
    """What the code set."""

    def reread(self) -> Config:
        """Returns the configuration as the same file, environment and command line give it now. Raises ConfigError."""
        return load(None if self.path is None else str(self.path), overrides=self.overrides, code=self.code)

    def values(self) -> Iterator[tuple[str, str, str]]:
        """Yields (dotted key, value as TOML would write it, origin) of every setting; of single tasks, those that are
        set. URLs are shown without passwords."""
        for key, value in _flat(self.settings):
            if value is not UNSET:
                yield dotted(key), toml(key, value), self.origins.get(dotted(key), "default")
            elif len(key) == 2:
                yield dotted(key), toml(key, built_in(key[-1])), "default"


def load(
    path: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    code: Settings | None = None,
) -> Config:
    """Reads the configuration.

    ``path`` is the TOML file (None: the one that ``ENGINE_CONFIG`` names, if any); ``overrides`` are command-line
    values by dotted key (``{"worker.concurrency": 8}``), ``code`` is what ``Engine(...)`` was given. Raises ConfigError
    with one line for each mistake.
    """
    env = os.environ if env is None else env
    file = _file(path, env)
    problems: list[str] = []
    values = from_file(file, problems) if file is not None else []
    values += from_environment(env, problems)
    values += from_options(overrides or {})
    config = _build(code or Settings(), values, problems)
    if problems:
        raise ConfigError("\n".join(sorted(problems, key=_line)))
    return Config(config.settings, config.origins, file, dict(overrides or {}), code)


def dump(settings: Settings) -> bytes:
    """Returns the settings as msgpack, for another process of the engine."""
    return msgspec.msgpack.encode(settings, enc_hook=_plain)


def restore(data: bytes) -> Settings:
    """Returns the settings that `dump` wrote."""
    return msgspec.msgpack.decode(data, type=Settings, dec_hook=decode_hook)


def changed(old: Settings, new: Settings) -> list[str]:
    """Returns the dotted keys whose values differ, in the order of the file."""
    before, after = dict(_flat(old)), dict(_flat(new))
    return [dotted(key) for key in {**before, **after} if before.get(key, UNSET) != after.get(key, UNSET)]


def _line(problem: str) -> int:
    """Mistakes are told in the order of the file, those from elsewhere after them."""
    found = re.match(r"[^:]*:(\d+): ", problem)
    return int(found[1]) if found else sys.maxsize


def _file(path: str | None, env: Mapping[str, str]) -> File | None:
    if path is not None:
        return File(path)
    name = env.get("ENGINE_CONFIG")
    if not name:
        return None
    if not File(name).exists():
        raise ConfigError(f"ENGINE_CONFIG: {name}: no such file or directory")
    return File(name)


def _build(code: Settings, values: list[Value], problems: list[str]) -> Config:
    origins = _first_origins(code)
    # What is left of the code's settings must not be changed in place: they belong to the Engine.
    settings = restore(dump(code))
    converted: list[tuple[Value, Any]] = []
    for value in values:
        try:
            converted.append((value, _converted(value)))
        except ConfigError as error:
            problems.append(str(error))
    for value, result in converted:
        _put(settings, value, result)
        origins[dotted(value.path)] = value.origin
    _check_pairs(converted, problems)
    _check_inherited(settings, origins, {value.path: value for value, _ in converted}, problems)
    return Config(settings, origins)


def _converted(value: Value) -> Any:
    section, key = value.path[0], value.path[-1]
    if section in OPEN and key not in keys_of(section):
        return value.raw
    return convert(value)


def _put(settings: Settings, value: Value, result: Any) -> None:
    section, key = value.path[0], value.path[-1]
    if section == "routes":
        settings.routes[key] = result
    elif len(value.path) == 3:
        setattr(settings.task.setdefault(value.path[1], TaskSection()), key, result)
    elif section in OPEN and key not in keys_of(section):
        table: BrokerSection | ResultsSection = getattr(settings, section)
        table.options[key] = result
        table.origins[key] = value.origin
    else:
        setattr(getattr(settings, section), key, result)
        if section in OPEN:
            getattr(settings, section).origins[key] = value.origin


def _check_pairs(values: list[tuple[Value, Any]], problems: list[str]) -> None:
    """A pair of limits that is written in one place must fit."""
    limits = {(value.source, value.path): (value, result) for value, result in values}
    for (source, path), (value, soft) in limits.items():
        hard = limits.get((source, (*path[:-1], "time_limit")))
        if path[-1] == "soft_time_limit" and hard and soft and hard[1] and soft >= hard[1]:
            problems.append(value.error(f"{brief(soft)} is not below the time_limit of {brief(hard[1])}"))


def _check_inherited(
    settings: Settings, origins: dict[str, str], values: Mapping[Path, Value], problems: list[str]
) -> None:
    """A soft limit from a weaker place than the hard one goes when it is not below it; the other way is a mistake."""
    tasks = settings.tasks
    if not (tasks.soft_time_limit and tasks.time_limit) or tasks.soft_time_limit < tasks.time_limit:
        return
    soft, hard = values.get(("tasks", "soft_time_limit")), values.get(("tasks", "time_limit"))
    if hard is not None and (soft is None or _SOURCES.index(soft.source) < _SOURCES.index(hard.source)):
        tasks.soft_time_limit = UNSET
        origins.pop("tasks.soft_time_limit", None)
    elif soft is not None and hard is None:
        # The code's: what it would give to a task is dropped too when it does not fit what the operator wrote.
        tasks.time_limit = UNSET
        origins.pop("tasks.time_limit", None)
    elif soft is not None and hard is not None and soft.source != hard.source:
        where = origins["tasks.time_limit"]
        limit = brief(tasks.time_limit)
        problems.append(soft.error(f"{brief(tasks.soft_time_limit)} is not below the time_limit of {limit} ({where})"))


def _first_origins(code: Settings) -> dict[str, str]:
    defaults = dict(_flat(Settings()))
    return {
        dotted(key): "default" if value == defaults.get(key, UNSET) else "code"
        for key, value in _flat(code)
        if value is not UNSET
    }


def _flat(settings: Settings) -> Iterator[tuple[Path, Any]]:
    for section in SECTIONS:
        table = getattr(settings, section)
        for key in keys_of(section):
            yield (section, key), getattr(table, key)
        for key, value in getattr(table, "options", {}).items():
            yield (section, key), value
    for name, table in settings.task.items():
        for key in keys_of("tasks"):
            yield ("tasks", name, key), getattr(table, key)
    for pattern, queue in settings.routes.items():
        yield ("routes", pattern), queue


def _plain(value: object) -> object:
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value)
    raise NotImplementedError(f"a setting cannot be {type(value).__name__}")
