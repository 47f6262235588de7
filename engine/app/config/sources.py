"""The places where settings are written: a TOML file, the environment, the command line. Each becomes `Value`s."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path as File
from typing import Any

from engine.app.config.places import line_of, places
from engine.app.config.values import OPEN, SECTIONS, Path, Value, keys_of
from engine.app.nearest import did_you_mean, nearest
from engine.errors import ConfigError

PREFIX = "ENGINE_"
NOT_SETTINGS = frozenset({"ENGINE_CONFIG", "ENGINE_DEBUG"})
"""Variables that are read elsewhere."""
_OTHERS = re.compile(r"ENGINE_(DEMO|TEST)_|.*_(SERVICE_HOST|SERVICE_PORT\w*|PORT_\d+_\w+)$")
# The second half: Kubernetes puts such variables into every container beside a service that is called "engine...".


def from_file(file: File, problems: list[str]) -> list[Value]:
    """Returns what a TOML file sets. What is wrong with single keys is added to ``problems``. Raises ConfigError when
    the file can not be read or is not TOML."""
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 (byte {error.start}): save it as UTF-8") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(file, text, str(error))) from None
    return _Table(file, places(text), problems).values(data)


def from_environment(env: Mapping[str, str], problems: list[str]) -> list[Value]:
    """Returns what ``ENGINE_<SECTION>_<KEY>`` variables set; for ``[engine]``, ``ENGINE_<KEY>`` does too. A variable
    that looks like a misspelt setting is added to ``problems``; others that start with ``ENGINE_`` are left alone."""
    values = []
    known = _variables()
    for name in sorted(env):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS or _is_foreign(name, env[name]):
            continue
        path = known.get(name) or _plugin_option(name)
        if path is not None:
            values.append(Value(path, env[name], name, "env"))
        elif hint := _misspelt(name, known):
            problems.append(f"{name}: unknown setting{hint}")
    return values


def from_options(overrides: Mapping[str, Any]) -> list[Value]:
    """Returns what command-line options set: ``{"worker.concurrency": 8}``. Raises ConfigError for an unknown key."""
    values = []
    for name, raw in overrides.items():
        section, _, key = name.partition(".")
        if section not in SECTIONS or (key not in keys_of(section) and section not in OPEN):
            raise ConfigError(f"{name}: unknown setting{did_you_mean(name, all_keys())}")
        values.append(Value((section, key), raw, f"--{key.replace('_', '-')}", "option"))
    return values


def all_keys() -> list[str]:
    """Returns every declared setting as ``section.key``."""
    return [f"{section}.{key}" for section in SECTIONS for key in keys_of(section)]


def variable(section: str, key: str) -> str:
    """Returns the name of the environment variable of a setting."""
    return f"{PREFIX}{key}".upper() if section == "engine" else f"{PREFIX}{section}_{key}".upper()


class _Table:
    """One file's tables on their way to values."""

    def __init__(self, file: File, lines: dict[Path, int], problems: list[str]) -> None:
        self.file = file
        self.lines = lines
        self.problems = problems

    def values(self, data: Mapping[str, Any]) -> list[Value]:
        found: list[Value] = []
        for section, table in data.items():
            if section not in SECTIONS and section != "routes":
                self.problems.append(f"{self.origin((section,))}: {_unknown_section(section, table)}")
            elif not isinstance(table, dict):
                self.problems.append(f"{self.origin((section,))}: {section} must be a table: write [{section}]")
            else:
                found.extend(self.section(section, table))
        return found

    def section(self, section: str, table: Mapping[str, Any]) -> Iterator[Value]:
        for key, raw in table.items():
            value = self.value((section, key), raw)
            if section == "tasks" and isinstance(raw, dict):
                yield from self.task(key, raw)
            elif section == "routes" or section in OPEN or key in keys_of(section):
                yield value
            else:
                self.problems.append(value.error(f"unknown key{_meant(section, key)}"))

    def task(self, name: str, table: Mapping[str, Any]) -> Iterator[Value]:
        for key, raw in table.items():
            value = self.value(("tasks", name, key), raw)
            if key in keys_of("tasks"):
                yield value
            elif isinstance(raw, dict):
                whole = f'[tasks."{name}.{key}"]'
                self.problems.append(value.error(f"put a task's name into quotes: {whole}"))
            else:
                self.problems.append(value.error(f"unknown key{_meant('tasks', key)}"))

    def value(self, path: Path, raw: Any) -> Value:
        return Value(path, raw, self.origin(path), "file")

    def origin(self, path: Path) -> str:
        return f"{self.file}:{line_of(self.lines, path)}"


def _meant(section: str, key: str) -> str:
    """What to write instead of a key of Celery's, else the nearest key of this section, else the section where a key of
    this very name belongs."""
    if instead := _of_celery(section, key):
        return f": {instead}"
    if hint := did_you_mean(key, keys_of(section)):
        return hint
    homes = [f"[{other}]" for other in SECTIONS if key in keys_of(other)]
    return f": it belongs into {' or '.join(homes)}" if homes else f" (known: {', '.join(keys_of(section))})"


def _of_celery(section: str, key: str) -> str | None:
    """What to write instead of a setting of Celery's that was moved over by its name."""
    from engine.app.old_settings import INSTEAD  # late: only a mistake is looked up there

    prefix = {"tasks": "task"}.get(section, section)
    return INSTEAD.get(f"{prefix}_{key}") or INSTEAD.get(key)


def _unknown_section(section: str, raw: Any) -> str:
    if isinstance(raw, dict):
        known = [*SECTIONS, "routes"]
        hint = did_you_mean(section, known)
        return f"[{section}]: unknown section{hint or ' (known: ' + ', '.join(known) + ')'}"
    homes = [f"[{name}]" for name in SECTIONS if section in keys_of(name)]
    return f"{section} stands outside of a section" + (f": put it under {' or '.join(homes)}" if homes else "")


def _syntax(file: File, text: str, error: str) -> str:
    match = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)", error)
    problem = error[: match.start()] if match else error
    if twice := re.search(r"^Cannot declare \((.*?),?\) twice", problem):
        table = ".".join(re.findall(r"'([^']*)'", twice[1]))
        problem = f"[{table}] stands here a second time: put its keys under the first one"
    elif problem == "Cannot overwrite a value":
        problem += ": this key stands above already"
    elif problem == "Invalid value":
        problem += ": text stands in quotes, and what is on is written true"
    if match and match[1]:
        return f"{file}:{match[1]}: not TOML: {problem} (column {match[2]})"
    return f"{file}:{max(1, len(text.splitlines()))}: not TOML: {problem}"


def _variables() -> dict[str, Path]:
    found: dict[str, Path] = {
        variable(section, key): (section, key) for section in SECTIONS for key in keys_of(section)
    }
    return found | {f"{PREFIX}ENGINE_{key}".upper(): ("engine", key) for key in keys_of("engine")}


def _plugin_option(name: str) -> Path | None:
    for section in OPEN:
        prefix = variable(section, "")
        if name.startswith(prefix) and len(name) > len(prefix):
            return (section, name.removeprefix(prefix).lower())
    return None


def _is_foreign(name: str, text: str) -> bool:
    return bool(_OTHERS.match(name)) or (name.endswith("_PORT") and text.startswith(("tcp://", "udp://")))


def _misspelt(name: str, known: Mapping[str, Path]) -> str:
    """Returns what to say about a variable that seems to be meant for the engine, "" for one that does not."""
    words = {other.removeprefix(PREFIX): other for other in known}
    if close := nearest(name.removeprefix(PREFIX), words, 0.75):
        return f', did you mean "{words[close]}"?'
    section = next((section for section in SECTIONS if name.startswith(f"{PREFIX}{section}_".upper())), None)
    return f": [{section}] has no such key" if section not in (None, "engine") else ""
