"""The statements that move messages: publish, choose, claim, give back, bury. All run inside a write transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from engine.contract import Batch, DeadLetter, Envelope
from engine_sqlite.bell import COMMANDS, LISTED, RESULTS, listed_parameters, queue_topic
from engine_sqlite.rows import as_json, insert_rows
from engine_sqlite.schema import CLAIMED, DELAYED, READY

PROMOTED_AT_ONCE = 2000
"""Delayed messages that one fetch makes ready."""

_NEVER = 1e15
_TAKE_NUMBERS = """
UPDATE tick SET n = max(n, coalesce((SELECT max(seq) FROM message), 0)) + ? RETURNING n
"""
_TAKE_NUMBERS_AND_LISTED = f"""
UPDATE tick SET n = max(n, coalesce((SELECT max(seq) FROM message), 0)) + ? RETURNING n, ({LISTED})
"""
_PUBLISH = "INSERT INTO message (seq, id, queue, priority, state, place, due, deliveries, body)"
_PROMOTE = f"""
UPDATE message SET state = {READY}, due = NULL, place = ? + soonest.turn
FROM (
    SELECT seq, row_number() OVER (ORDER BY due, seq) AS turn
    FROM message WHERE state = {DELAYED} AND due <= ? ORDER BY due LIMIT {PROMOTED_AT_ONCE}
) AS soonest
WHERE message.seq = soonest.seq
"""
_CLAIM = f"UPDATE message SET state = {CLAIMED}, owner = ?, claim = ? WHERE seq IN (SELECT value FROM json_each(?))"
_DELETE = "DELETE FROM message WHERE seq IN (SELECT value FROM json_each(?))"
_HELD = f"""
SELECT coalesce(group_concat(seq || ':' || claim), ''), ({LISTED}), ({LISTED}) FROM message
WHERE seq IN (SELECT value FROM json_each(?)) AND state = {CLAIMED}
    AND owner = (SELECT number FROM worker WHERE worker.id = ?)
"""
_RELEASE = f"""
UPDATE message SET
    state = iif(told.due IS NULL, {READY}, {DELAYED}), due = told.due, owner = NULL, claim = NULL, started = 0,
    deliveries = deliveries + told.delivery, crashes = crashes + told.crash
FROM (
    SELECT json_extract(value, '$[0]') AS seq, json_extract(value, '$[1]') AS due,
        json_extract(value, '$[2]') AS delivery, json_extract(value, '$[3]') AS crash
    FROM json_each(?)
) AS told
WHERE message.seq = told.seq
"""
_BURY = """
INSERT OR REPLACE INTO dead (id, queue, priority, reason, died, deliveries, crashes, body)
SELECT m.id, m.queue, m.priority, json_extract(told.value, '$[1]'), ?, m.deliveries,
    m.crashes + json_extract(told.value, '$[2]'), m.body
FROM json_each(?) AS told CROSS JOIN message AS m ON m.seq = json_extract(told.value, '$[0]')
"""
_REPLAY = f"""
INSERT INTO message (seq, id, queue, priority, state, place, deliveries, body)
SELECT ? + row_number() OVER (ORDER BY died), id, queue, priority, {READY},
    ? + row_number() OVER (ORDER BY died), deliveries + 1, body
FROM dead WHERE id IN (SELECT value FROM json_each(?)) AND id NOT IN (SELECT id FROM message)
"""


def take_numbers(connection: sqlite3.Connection, count: int) -> int:
    """Draws ``count`` numbers that were never used before, and returns the one before the first."""
    last = connection.execute(_TAKE_NUMBERS, (count,)).fetchone()
    return int(last[0]) - count


def is_new(connection: sqlite3.Connection, batch: Batch, now: float) -> bool:
    """Remembers a batch, and says whether it had not been published before."""
    done = connection.execute(
        "INSERT INTO producer VALUES (?, ?, ?) ON CONFLICT (producer) "
        "DO UPDATE SET number = excluded.number, at = excluded.at WHERE excluded.number > number",
        (batch.producer, batch.number, now),
    )
    return done.rowcount > 0


def publish(connection: sqlite3.Connection, envelopes: Sequence[Envelope], now: float) -> str:
    """Adds messages, but those whose id is alive; returns the bells of who waits for them."""
    topics = {queue_topic(envelope.queue) for envelope in envelopes}
    number, waiting = connection.execute(
        _TAKE_NUMBERS_AND_LISTED, (len(envelopes), *listed_parameters(topics, now))
    ).fetchone()
    number -= len(envelopes)
    rows: list[tuple[Any, ...]] = []
    for envelope in envelopes:
        number += 1
        due = envelope.due if envelope.due is not None and envelope.due > now else None
        priority = min(max(envelope.priority, 0), 9)
        state = READY if due is None else DELAYED
        rows.append((number, envelope.id, envelope.queue, priority, state, number, due, 1, envelope.body))
    insert_rows(connection, _PUBLISH, "ON CONFLICT (id) DO NOTHING", rows)
    return str(waiting)


def promote(connection: sqlite3.Connection, now: float) -> None:
    """Makes the delayed messages that are due ready, at the end of their queues, soonest first."""
    connection.execute(_PROMOTE, (take_numbers(connection, PROMOTED_AT_ONCE), now))


def claim(connection: sqlite3.Connection, rows: Iterable[int], owner: int, number: int) -> None:
    """Claims messages for a worker, under a number that was never used before."""
    connection.execute(_CLAIM, (owner, number, as_json(rows)))


def held(connection: sqlite3.Connection, rows: Iterable[int], worker: str, now: float) -> tuple[set[bytes], str, str]:
    """Returns the claims that a worker has on these messages, and the bells of all consumers and of who waits for a
    result."""
    consumers, clients = listed_parameters((COMMANDS,), now), listed_parameters((RESULTS,), now)
    text, awake, waiting = connection.execute(_HELD, (*consumers, *clients, as_json(rows), worker)).fetchone()
    return set(text.encode().split(b",")) if text else set(), awake, waiting


def delete(connection: sqlite3.Connection, rows: Sequence[int]) -> None:
    """Deletes messages."""
    if rows:
        connection.execute(_DELETE, (as_json(rows),))


def release(connection: sqlite3.Connection, told: Sequence[tuple[int, float | None, bool, bool]]) -> None:
    """Gives claimed messages back: (seq, when, does it count a delivery, does it count a crash)."""
    if told:
        items = ",".join(f"[{seq},{_json_time(at)},{d:d},{c:d}]" for seq, at, d, c in told)
        connection.execute(_RELEASE, (f"[{items}]",))


def _json_time(at: float | None) -> str:
    # JSON has no infinity, and no NaN.
    return "null" if at is None else repr(float(at)) if abs(at) < _NEVER else repr(_NEVER)


def copy_to_dead(connection: sqlite3.Connection, reasons: str, now: float) -> None:
    """Writes the dead letters of messages. ``reasons`` is a JSON array of [seq, reason, crashed]: whether its
    last run counts one crash more."""
    connection.execute(_BURY, (now, reasons))


def replay(connection: sqlite3.Connection, ids: str, count: int) -> int:
    """Puts dead letters (a JSON array of at most ``count`` ids) back, but those whose id is alive; returns how many."""
    number = take_numbers(connection, count)
    replayed = connection.execute(_REPLAY, (number, number, ids)).rowcount
    connection.execute(
        "DELETE FROM dead WHERE id IN (SELECT id FROM message WHERE seq > ? AND seq <= ?)", (number, number + count)
    )
    return replayed


def letter(row: Sequence[Any]) -> DeadLetter:
    """Returns the dead letter in a row of (id, queue, reason, died, deliveries, crashes, body)."""
    id, queue, reason, died, deliveries, crashes, body = row
    return DeadLetter(id, queue, reason, died, deliveries, crashes, body)
