"""Writing and reading many rows in few steps."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

_LARGEST = 256
"""Rows of one statement at most. Its sizes are powers of two, so that few different statements are prepared."""


def insert_rows(connection: sqlite3.Connection, head: str, tail: str, rows: Sequence[Sequence[Any]]) -> int:
    """Runs ``head VALUES (...), (...) tail`` over all rows, in their order; returns how many rows were changed."""
    changed = start = 0
    while start < len(rows):
        size = min(_LARGEST, 1 << (len(rows) - start).bit_length() - 1)
        values = [value for row in rows[start : start + size] for value in row]
        changed += connection.execute(_statement(head, tail, len(rows[0]), size), values).rowcount
        start += size
    return changed


def as_json(numbers: Iterable[int]) -> str:
    """Returns whole numbers as a JSON array."""
    return str([*numbers])


@cache
def _statement(head: str, tail: str, width: int, size: int) -> str:
    row = f"({','.join('?' * width)})"
    return f"{head} VALUES {','.join([row] * size)} {tail}"
