"""Whatever is written, it is accepted or answered with a sentence for each mistake: never with another exception."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.app.config.loader import Config, dump, load, restore
from engine.app.config.places import line_of, places
from engine.app.config.sources import all_keys, variable
from engine.errors import ConfigError

KEYS = [tuple(key.split(".")) for key in all_keys()]
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
WRITTEN = st.one_of(
    TEXT,
    st.sampled_from(["none", "5m", "1d2h", "512MB", "16MiB", "10/m", "INFO", "json", "memory://", "a.b:c", "-1s", ""]),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-1, 10),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(TEXT, max_size=3),
    st.just("1979-05-27T07:32:00Z"),
)
ENTRIES = st.lists(st.tuples(st.sampled_from([*KEYS, ("worker", "nope"), ("nope", "x")]), WRITTEN), max_size=8)


def _accepted(config: Config) -> None:
    assert restore(dump(config.settings)) == config.settings
    for key, value, origin in config.values():
        assert key
        assert origin
        assert "x" in tomllib.loads(f"x = {value}")


def _as_toml(entries: dict[tuple[str, ...], Any]) -> str:
    lines = []
    for section in dict.fromkeys(path[0] for path in entries):
        lines.append(f"[{section}]")
        own = {path[1]: value for path, value in entries.items() if path[0] == section}
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in own.items()]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "worker.toml"


@given(ENTRIES)
@settings(max_examples=200, deadline=None)
def test_files(file: Path, entries: list[tuple[tuple[str, ...], Any]]) -> None:
    text = _as_toml(dict(entries))
    file.write_text(text)
    lines = text.splitlines()
    try:
        config = load(str(file), env={})
    except ConfigError as error:
        for problem in str(error).splitlines():
            number, _, what = problem.removeprefix(f"{file}:").partition(": ")
            line = lines[int(number) - 1]
            assert line.partition(" =")[0] in what
    else:
        _accepted(config)


@given(st.dictionaries(st.sampled_from([variable(*key) for key in KEYS]), WRITTEN.map(str), max_size=4))
@settings(max_examples=200, deadline=None)
def test_the_environment(env: dict[str, str]) -> None:
    try:
        config = load(env=env)
    except ConfigError as error:
        for problem in str(error).splitlines():
            assert problem.partition(":")[0] in env
    else:
        _accepted(config)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_what_may_not_be_toml(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    problems = ""
    try:
        load(str(file), env={})
    except ConfigError as error:
        problems = str(error)
    assert not problems or problems.startswith(f"{file}:")


@given(
    st.recursive(
        st.integers() | TEXT | st.booleans(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
        max_leaves=6,
    ).filter(lambda value: isinstance(value, dict)),
)
@settings(max_examples=200, deadline=None)
def test_every_key_has_a_line(data: dict[str, Any]) -> None:
    """Keys one below the other, tables as headers: each must be found on its own line."""
    lines: list[str] = []
    expected: dict[tuple[str, ...], int] = {}

    def write(path: tuple[str, ...], table: dict[str, Any]) -> None:
        for key, value in table.items():
            if not isinstance(value, dict):
                lines.append(f"{json.dumps(key, ensure_ascii=False)} = {_inline(value)}  # [x] = 1")
                expected[(*path, key)] = len(lines)
        for key, value in table.items():
            if isinstance(value, dict):
                whole = (*path, key)
                lines.append(f"[{'.'.join(json.dumps(part, ensure_ascii=False) for part in whole)}]")
                expected[whole] = len(lines)
                write(whole, value)

    write((), data)
    text = "\n".join(lines)
    tomllib.loads(text)
    found = places(text)
    assert {path: line_of(found, path) for path in expected} == expected


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
