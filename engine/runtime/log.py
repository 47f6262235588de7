"""Runs in supervisor and dispatcher: a log that never makes its writer wait.

A pipe that nobody reads fills up, and ``write`` to it then waits for ever: limits would no longer be enforced. So the
lines go through a bounded buffer to a descriptor that does not block. O_NONBLOCK belongs to the open file description,
which stderr shares with the shell and all other processes; opening /proc/self/fd/2 anew gives one of our own.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
import sys
from collections import deque
from datetime import UTC, datetime
from typing import Any

BUFFERED_LINES = 2000
"""Lines kept while the log cannot be written; the oldest are dropped, and counted."""
COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
"""Of levels, on a terminal: parameters of the escape sequence SGR (ECMA-48, 8.3.117)."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of a disk: it may have room again."""


class LogWriter:
    """Writes lines to the place where descriptor 2 leads, as far as that takes them without waiting."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._fd = self._open()
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._torn = False
        """Does what was written last end in the middle of a line?"""

    @property
    def pending(self) -> bool:
        """Is there anything left to write?"""
        return bool(self._lines)

    def fileno(self) -> int:
        """Returns the descriptor to poll for room; -1 if there is none."""
        return self._fd

    def write(self, line: str) -> None:
        """Adds a line and writes what can be written."""
        begin = "\n" if self._torn and not self._lines else ""
        self._lines.append(f"{begin}{line}\n".encode("utf-8", "backslashreplace"))
        if len(self._lines) > BUFFERED_LINES:
            self._lines.popleft()
            self._dropped += 1
        self.flush()

    def flush(self) -> None:
        """Writes what can be written without waiting. A log that is gone is no reason to stop: its lines are lost."""
        if self._fd < 0:
            self._lines.clear()
            return
        try:
            while self._lines:
                line = self._lines[0]
                written = self._put(line)
                self._torn = written < len(line)
                if self._torn:
                    self._lines[0] = line[written:]
                    return
                self._lines.popleft()
                self._note_dropped()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _FULL:
                # Not kept: a file is always ready to be written, and would be tried at every turn.
                self._dropped += len(self._lines)
            else:
                self._fd = -1  # its reader is gone
            self._lines.clear()

    def _note_dropped(self) -> None:
        if self._dropped and not self._lines:
            count, self._dropped = self._dropped, 0
            self._lines.append(f"engine: {count} log lines were dropped: they could not be written\n".encode())

    def _put(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return os.write(self._fd, data)

    def _open(self) -> int:
        try:
            if stat.S_ISSOCK(os.fstat(2).st_mode):
                self._socket = socket.socket(fileno=os.dup(2))
                return self._socket.fileno()
            return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return -1


class WriterHandler(logging.Handler):
    """Sends log records to a `LogWriter`."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Formats and hands over one record."""
        try:
            self._writer.write(self.format(record))
        except Exception:  # noqa: BLE001 - as every logging handler: a bad log call must not stop the engine
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """``2026-01-31 12:00:00.123 INFO    dispatcher[71] message``; the level in its colour, if that is asked for."""

    def __init__(self, role: str, *, in_colour: bool = False) -> None:
        super().__init__()
        self._role = role
        self._colours = COLOURS if in_colour else {}

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        when = datetime.fromtimestamp(record.created).astimezone()
        stamp = f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03d}"
        colour = self._colours.get(record.levelname)
        level = f"\x1b[{colour}m{record.levelname:<7}\x1b[0m" if colour else f"{record.levelname:<7}"
        text = f"{stamp} {level} {self._role}[{record.process}] {record.getMessage()}"
        task_id = getattr(record, "task_id", None)
        if task_id and f"[{task_id}]" not in text:
            text += f" [{getattr(record, 'task_name', '?')} {task_id}]"
        if record.exc_info:
            text += "\n" + (record.exc_text or self.formatException(record.exc_info))
        return text


_OF_EVERY_RECORD = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"})
"""What is no ``extra`` of a call's; ``taskName`` is asyncio's, since Python 3.12."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, role, pid, logger, message, the task's fields inside a task, and what the
    call gave as ``extra``, under names that are free."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "role": self._role,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key in ("task_id", "task_name", "child"):
            if (value := getattr(record, key, None)) is not None:
                line[key] = value
        if record.exc_info:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)
        given = [key for key in record.__dict__ if key not in _OF_EVERY_RECORD and key not in line]
        line.update((key, record.__dict__[key]) for key in given)
        return json.dumps(line, default=str, skipkeys=True)


def formatter(role: str, *, as_json: bool) -> logging.Formatter:
    """Returns the formatter of the engine's own lines."""
    return JsonFormatter(role) if as_json else TextFormatter(role, in_colour=_is_terminal())


def _is_terminal() -> bool:
    """Is stderr a terminal, and has nobody asked for no colours (NO_COLOR, TERM=dumb)?"""
    return os.isatty(2) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def configure(role: str, level: str, *, as_json: bool, writer: LogWriter) -> None:
    """Makes the root logger of this process write to ``writer``. Supervisor and dispatcher, once, after the fork."""
    handler = WriterHandler(writer)
    handler.setFormatter(formatter(role, as_json=as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def configure_child(level: str, *, as_json: bool) -> None:
    """Gives the root logger a handler on stderr, unless the app configured it. Template and children."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter("child", as_json=as_json))
    root.addHandler(handler)
    root.setLevel(level)
