"""The statements that keep results. All but `select` run inside a write transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from engine.contract import Record
from engine_sqlite.rows import insert_rows

SELECT = """
SELECT id, state, sent, retries, deliveries, CAST(body AS BLOB), final FROM result
WHERE id IN (SELECT value FROM json_each(?)) AND keep AND expires > ?
"""
_STORE = "INSERT INTO result (id, state, sent, retries, deliveries, final, keep, expires, body)"
_UNLESS_NEWER = """
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, sent = excluded.sent, retries = excluded.retries, deliveries = excluded.deliveries,
    final = excluded.final, keep = excluded.keep, expires = excluded.expires, body = excluded.body
WHERE (excluded.sent, excluded.retries, excluded.deliveries) >= (sent, retries, deliveries)
"""
_REMOVE = """
UPDATE result SET keep = 0, final = 0, body = x'', sent = ?, retries = ?, deliveries = ?, expires = ?
WHERE id = ? AND (?, ?, ?) >= (sent, retries, deliveries)
"""
_PURGE = "DELETE FROM result WHERE n IN (SELECT n FROM result WHERE expires <= ? ORDER BY expires LIMIT ?)"


def store(connection: sqlite3.Connection, records: Sequence[Record], now: float, expires: float) -> None:
    """Writes records in the order given, each unless a newer one is there, and deletes twice as many expired ones."""
    for keep, group in groupby(records, _is_kept):
        if keep:
            insert_rows(connection, _STORE, _UNLESS_NEWER, [_row(record, now + expires) for record in group])
        else:
            _remove(connection, group, now + expires)
    purge(connection, now, 2 * len(records))


def purge(connection: sqlite3.Connection, now: float, limit: int) -> None:
    """Deletes up to ``limit`` expired records."""
    connection.execute(_PURGE, (now, limit))


def record(row: Sequence[Any]) -> Record:
    """Returns the record in a row of `SELECT`."""
    id, state, sent, retries, deliveries, body, final = row
    return Record(id, state, sent, retries, deliveries, body, bool(final))


def has_final(records: Iterable[Record]) -> bool:
    """Says whether somebody may be waiting for one of these."""
    return any(record.final for record in records)


def _remove(connection: sqlite3.Connection, records: Iterable[Record], expires: float) -> None:
    # The row stays, without its body, so that an older run cannot come back. Where none is there is nothing to do.
    for r in records:
        connection.execute(_REMOVE, (*r.order, expires, r.id, *r.order))


def _is_kept(record: Record) -> bool:
    return record.keep


def _row(r: Record, expires: float) -> tuple[Any, ...]:
    return (r.id, r.state, r.sent, r.retries, r.deliveries, r.final, True, expires, r.body)
