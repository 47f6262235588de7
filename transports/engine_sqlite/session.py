"""A database file, and the connections to it: one `Session` per lane.

Any thread may use a session, one at a time: a client's threads take turns behind a lock, and ``close`` may come from
any of them. So sqlite3's own check for one thread is off, and the session's lock takes its place.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from engine.errors import BrokerFull, BrokerUnavailable, ConfigError, TransportError
from engine_sqlite import schema
from engine_sqlite.faults import explain, is_busy, require_usable

CHECKPOINT_PAGES = 4000
"""Pages (of 4 KiB) in the write-ahead log after which it is copied into the file. Most messages live shorter."""
_LOOK_AT_FILE = 1.0
_CHECKED_BYTES = 64 * 1024 * 1024
T = TypeVar("T")
_logger = logging.getLogger("engine.sqlite")


class Database:
    """What all sessions of one URL share: where the file is and how it is opened."""

    def __init__(self, url: str, section: str, options: Mapping[str, Any]) -> None:
        self.path = path_of(url, section)
        self.timeout = float(options.get("busy_timeout", 5.0))
        self.synchronous = str(options.get("synchronous", "normal")).lower()
        if self.synchronous not in ("normal", "full"):
            raise ConfigError(f'[{section}] synchronous = "{self.synchronous}": write "normal" or "full"')
        self._real_path = os.path.realpath(self.path)
        self._turn = _turns.setdefault(self._real_path, threading.Lock())

    def same_file(self, other: Database) -> bool:
        """Says whether the other is this file."""
        return self._real_path == other._real_path

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Held while this process writes. Its lanes queue here, where waking is immediate, and not at the file's lock,
        which is polled."""
        if not self._turn.acquire(timeout=self.timeout):
            raise BrokerUnavailable(f"{self.path} is locked by another thread for {self.timeout:g} s")
        try:
            yield
        finally:
            self._turn.release()

    def open(self) -> sqlite3.Connection:
        """Opens a connection, creating file and tables when they are not there."""
        require_usable(self.path)
        self._create_private()
        connection = sqlite3.connect(
            self.path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.text_factory = _decoded
        try:
            retry_busy(lambda: self._prepare(connection), self.timeout)
        except BaseException:
            connection.close()
            raise
        return connection

    def _create_private(self) -> None:
        # SQLite would create it as the umask says; its -wal and -shm files take their mode from it.
        with suppress(OSError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # First of all: the settings below change the file, and it may be another's.
        is_current = schema.is_current(connection, self.path)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise ConfigError(
                f"{self.path}: its file system or its owner does not let SQLite use WAL: use a local disk"
            )
        for setting in (
            f"synchronous = {self.synchronous}",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
            "journal_size_limit = 67108864",
            "cache_size = -8000",
            "secure_delete = OFF",
            "temp_store = MEMORY",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
        if is_current:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            schema.create(connection, self.path)
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            raise


class Session:
    """One connection, opened at its first use and again after a fork or when the file was replaced."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._file = (0, 0)
        self._looked = 0.0
        with _registry:
            _sessions.add(self)

    def __del__(self) -> None:
        self.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed at the end, rolled back by an exception. Raises BrokerUnavailable when the
        file stays locked, BrokerFull, TransportError."""
        with self._lock:
            try:
                connection = self._open()
                with self.database.turn():
                    retry_busy(lambda: connection.execute("BEGIN IMMEDIATE"), self.database.timeout)
                    try:
                        yield connection
                        connection.execute("COMMIT")
                    except BaseException:
                        roll_back(connection)
                        raise
            except sqlite3.Error as error:
                raise explain(error, self.database.path) from error

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Runs one SELECT and returns its rows."""
        with self._lock:
            try:
                connection = self._open()
                return retry_busy(lambda: connection.execute(sql, parameters).fetchall(), self.database.timeout)
            except sqlite3.Error as error:
                raise explain(error, self.database.path) from error

    def version(self) -> int:
        """Returns a number that changes when another connection has written."""
        return int(self.read("PRAGMA data_version")[0][0])

    def close(self) -> None:
        """Closes the connection. The session can be used again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            if self._pid != os.getpid():
                _abandoned.append(connection)
                return
            with suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._is_stale():
            self.close()
        if self._connection is None:
            self._connection = self.database.open()
            self._pid = os.getpid()
            self._file = self._on_disk()
            self._looked = time.monotonic()
        return self._connection

    def _is_stale(self) -> bool:
        if self._pid != os.getpid():
            return True
        now = time.monotonic()
        if now - self._looked < _LOOK_AT_FILE:
            return False
        self._looked = now
        if self._on_disk() == self._file:
            return False
        _logger.warning("%s was removed or replaced: opening it anew", self.database.path)
        return True

    def _on_disk(self) -> tuple[int, int]:
        try:
            status = os.stat(self.database.path)
        except OSError:
            return (0, 0)
        return (status.st_dev, status.st_ino)

    def hold(self) -> None:
        """Closes the connection and keeps all threads out until `release`: before a fork."""
        self._lock.acquire()
        self.close()

    def release(self) -> None:
        """Lets threads in again: after a fork, in both processes."""
        self._lock.release()


def path_of(url: str, section: str) -> str:
    """Returns the absolute path that a URL names. Raises ConfigError for one that names none."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path or "?" in path or path == ":memory:":
        raise ConfigError(
            f'[{section}] url = "{url}": write "sqlite:///relative.db" or "sqlite:////absolute/path.db"; '
            'in memory it is "memory://"'
        )
    return os.path.abspath(path)


def checked(session: Session) -> list[str]:
    """Opens the file, and returns what an operator should know. Raises ConfigError when it can not be used as it is."""
    path = session.database.path
    try:
        with session.write():
            pass
        # A larger file takes seconds: its damage shows when it is met.
        checks = session.read("PRAGMA quick_check(3)") if os.path.getsize(path) <= _CHECKED_BYTES else []
    except (BrokerUnavailable, BrokerFull):
        raise
    except TransportError as error:
        raise ConfigError(str(error)) from error
    if faults := [line for (line,) in checks if line != "ok"]:
        fault = " ".join(faults[0].split())[:200]
        raise ConfigError(f"{path} is damaged ({fault}): restore a copy or move it away. Nothing was repaired")
    return [*_notes_on(path)]


def _notes_on(path: str) -> Iterator[str]:
    status = os.stat(path)
    if status.st_uid != os.geteuid():
        yield f"{path} belongs to another user: all who use it must be able to write it"
    if stat.S_IMODE(status.st_mode) & 0o077:
        yield f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):o}): it holds the tasks' arguments"


def retry_busy(call: Callable[[], T], timeout: float) -> T:
    """Calls until it is not turned away by another connection's lock, for at most ``timeout`` seconds.

    Finer than SQLite's own waiting, whose first pauses are longer than most of our transactions.
    """
    deadline = time.monotonic() + timeout
    pause = 0.0002
    while True:
        try:
            return call()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 1.5, 0.01)


def _decoded(text: bytes) -> str:
    # What foreign hands wrote must not stop a listing.
    return text.decode("utf-8", "backslashreplace")


def roll_back(connection: sqlite3.Connection) -> None:
    """Ends a transaction that failed. SQLite has ended some by itself."""
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_turns: dict[str, threading.Lock] = {}
_abandoned: list[sqlite3.Connection] = []
"""Connections that a fork without Python's knowledge has copied: closing one would be as wrong as using it."""
_held: list[Session] = []
_registry = threading.Lock()
"""Held while a session is added, and during a fork."""


def _before_fork() -> None:
    _registry.acquire()
    _held.extend(_sessions)
    for session in _held:
        session.hold()


def _after_fork() -> None:
    while _held:
        _held.pop().release()
    _registry.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
