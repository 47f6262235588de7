"""What the tests of the SQLite transport share: a file of the test's own, and what stands on it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.contract import Consumer, Envelope, Worker
from engine_sqlite import SqliteResults, SqliteTransport


class SqliteRig:
    """Transports, results and consumers on one file, closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "engine.db"
        self.url = f"sqlite:///{self.path}"
        self._workers = 0
        self._open = contextlib.ExitStack()
        self.transport = self.connect()

    def connect(self, **options: Any) -> SqliteTransport:
        """Returns a client."""
        transport = SqliteTransport(self.url, options=options)
        self._open.callback(transport.close)
        return transport

    def results(self, expires: float = 60.0, **options: Any) -> SqliteResults:
        """Returns a result backend."""
        results = SqliteResults(self.url, expires=expires, options=options)
        self._open.callback(results.close)
        return results

    def worker(self) -> Worker:
        """Returns a worker that has no lock file, and a long time until it counts as dead."""
        self._workers += 1
        return Worker(f"worker-{self._workers}", "host", "boot", str(self.path.parent / "no.lock"))

    def consumer(self, *queues: str, transport: SqliteTransport | None = None) -> Consumer:
        """Returns a consumer that is up."""
        consumer = (transport or self.transport).consume(queues or ("default",), self.worker())
        self._open.callback(consumer.close)
        consumer.fetch(0, 0)
        return consumer

    def publish(self, *ids: str, **fields: Any) -> None:
        """Sends a message for each id."""
        self.transport.publish([Envelope(id=id, body=id.encode(), **fields) for id in ids])

    @contextlib.contextmanager
    def raw(self) -> Iterator[sqlite3.Connection]:
        """The file, as foreign hands see it."""
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Closes everything."""
        self._open.close()
