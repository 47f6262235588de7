"""Transports whose flags the tests of the suite may turn without turning those of the real ones."""

from __future__ import annotations

from engine.contract import ResultBackend, Transport
from engine_memory import MemoryResults, MemoryTransport
from engine_sqlite import SqliteResults, SqliteTransport


class MemoryLiar(MemoryTransport):
    """The memory transport, by another name."""


class SqliteLiar(SqliteTransport):
    """The SQLite transport, by another name."""


PAIRS: dict[str, tuple[type[Transport], type[ResultBackend]]] = {
    "memory": (MemoryLiar, MemoryResults),
    "sqlite": (SqliteLiar, SqliteResults),
}
