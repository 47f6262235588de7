"""The statements that keep results. All but `select` run inside a write transaction."""

from __future__ import annotations

import sqlite3
import time
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
UPDATE result SET
    keep = 0, final = 0, body = x'', sent = t.column2, retries = t.column3, deliveries = t.column4
FROM (
"""
_OLDER = """
) AS t
WHERE result.id = t.column1 AND (t.column2, t.column3, t.column4) >= (result.sent, result.retries, result.deliveries)
"""
PURGE_EVERY = 1.0
_PURGE = "DELETE FROM result WHERE n IN (SELECT n FROM result WHERE expires <= ? ORDER BY expires LIMIT ?)"


class Keeper:
    """Keeps the records of one lane for ``expires`` seconds, and deletes what expired in step with what it stores."""

    def __init__(self, expires: float) -> None:
        self._expires = expires
        self._stored = 0
        self._purged = 0.0

    def store(self, connection: sqlite3.Connection, records: Sequence[Record], now: float) -> None:
        """Writes records in the order given, each unless a newer one is there."""
        for keep, group in groupby(records, _is_kept):
            if keep:
                rows = [_row(record, now + self._expires) for record in group]
                insert_rows(connection, _STORE, _UNLESS_NEWER, rows)
            else:
                _remove(connection, group)
        self._stored += len(records)
        if time.monotonic() - self._purged >= PURGE_EVERY:
            purge(connection, now, 2 * self._stored)
            self._purged, self._stored = time.monotonic(), 0


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


def _remove(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    # The row stays, without its body, so that an older run cannot come back. Where none is there is nothing to do.
    latest: dict[str, Record] = {}
    for r in records:
        if r.id not in latest or latest[r.id].order <= r.order:
            latest[r.id] = r
    insert_rows(connection, _REMOVE, _OLDER, [(r.id, *r.order) for r in latest.values()])


def _is_kept(record: Record) -> bool:
    return record.keep


def _row(r: Record, expires: float) -> tuple[Any, ...]:
    return (r.id, r.state, r.sent, r.retries, r.deliveries, r.final, True, expires, r.body)
