"""Lines of JSON for a file or stderr: each batch in one write, a file that was rotated away opened anew."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import msgspec

STDERR = 2
_encode = msgspec.json.Encoder(order="deterministic").encode


class Lines:
    """The end of a file (made if it is not there), or stderr. Of one thread at a time."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None

    def write(self, rows: Sequence[Any]) -> None:
        """Writes one line for each row; one without a time gets it. Raises OSError."""
        now = time.time()
        lines = [_encode({"time": now, **row}) for row in rows]
        if lines:
            _write_all(self._descriptor(), b"\n".join(lines) + b"\n")

    def _descriptor(self) -> int:
        if self._path is None:
            return STDERR
        if self._file is None or _identity(self._path) != self._identity:
            self._open(self._path)
        assert self._file is not None, "just opened"
        return self._file

    def _open(self, path: str) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._identity = _identity(path)


def _identity(path: str) -> tuple[int, int] | None:
    """Which file a path leads to now; None: to none, it was rotated away."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
