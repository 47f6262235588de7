"""Where the keys of a TOML file are: `tomllib` reads values but does not say on which lines they were."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

Path = tuple[str, ...]

_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'(?:.|\n)*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[\[\]{}=.\n]|[^\[\]{}=.\n"'#]+''',
    re.DOTALL,
)


def places(text: str) -> dict[Path, int]:
    """Returns the line (from 1) of each table and key in ``text``, which `tomllib` must have accepted. Keys inside
    inline tables are not listed: they are on the line of the key that holds the table (see `line_of`)."""
    found: dict[Path, int] = {}
    table: Path = ()
    for line, tokens in _statements(text):
        if tokens[0] == "[":
            table = _key(token for token in tokens if token not in "[]")
            found.setdefault(table, line)
        elif "=" in tokens:
            key = table + _key(tokens[: tokens.index("=")])
            for depth in range(len(table) + 1, len(key) + 1):
                found.setdefault(key[:depth], line)
    return found


def line_of(found: dict[Path, int], path: Path) -> int:
    """Returns the line of ``path``, or of the nearest table or key that holds it."""
    while path:
        if path in found:
            return found[path]
        path = path[:-1]
    return 1


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields each header or ``key = value`` with its first line, white space and comments left out."""
    line, start, depth = 1, 1, 0
    tokens: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n" and depth == 0:
            if tokens:
                yield start, tokens
            tokens = []
        elif token.strip() and token[0] != "#":
            if not tokens:
                start = line
            tokens.append(token.strip())
            depth += (token in "[{") - (token in "]}")
        line += token.count("\n")
    if tokens:
        yield start, tokens


def _key(tokens: Iterator[str] | list[str]) -> Path:
    return tuple(_unquote(token) for token in tokens if token != ".")


def _unquote(token: str) -> str:
    if token[0] not in "\"'":
        return token
    return str(tomllib.loads(f"key = {token}")["key"])
