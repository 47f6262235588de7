"""``sqlite:///file.db``: a durable broker and result backend in one file, for the processes of one host.

- SQLite has one writer at a time. Every write is one short ``BEGIN IMMEDIATE`` transaction: a transaction that reads
  first and writes later is refused at once, without any waiting, when another has written in between.
- The sqlite3 module lets go of the interpreter lock at every step of a statement, and in a busy process each return may
  cost a switch interval. So a batch is few steps, however large it is: lists go in as JSON or as many VALUES, rows come
  out aggregated into one.
- A connection must not cross a fork, not even unused: the locks that SQLite keeps in the memory of the process would be
  wrong in the child. All are closed before a fork, and opened again at their next use.
- Waiting is by a datagram socket, one per waiting process, listed in the file. A lost datagram costs at most half a
  second: then the file's version is compared.
"""

from __future__ import annotations

from engine.contract import ResultBackend, Transport, hookimpl
from engine_sqlite.results import SqliteResults
from engine_sqlite.transport import SqliteTransport

__all__ = ["SqliteResults", "SqliteTransport", "engine_results", "engine_transport"]


@hookimpl
def engine_transport(scheme: str) -> type[Transport] | None:
    """Answers for the scheme "sqlite"."""
    return SqliteTransport if scheme == "sqlite" else None


@hookimpl
def engine_results(scheme: str) -> type[ResultBackend] | None:
    """Answers for the scheme "sqlite"."""
    return SqliteResults if scheme == "sqlite" else None
