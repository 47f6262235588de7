"""The workers that are up, and what becomes of the claims of one that died. All run inside a write transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from engine.contract import DeadLetter, TakenOver, Worker
from engine_sqlite import messages
from engine_sqlite.rows import as_json
from engine_sqlite.schema import CLAIMED, READY

LISTED = """
SELECT CAST(id AS TEXT), CAST(host AS TEXT), CAST(boot_id AS TEXT), CAST(lock AS TEXT), CAST(dead_after AS REAL),
    CAST(beat AS INTEGER)
FROM worker
"""
_JOIN = """
INSERT INTO worker (number, id, host, boot_id, lock, dead_after, beat, seen) VALUES (?, ?, ?, ?, ?, ?, 1, ?)
ON CONFLICT (id) DO UPDATE SET beat = beat + 1, seen = excluded.seen
"""
_CLAIMS = f"""
SELECT seq, claim, queue FROM message INDEXED BY message_claimed WHERE owner = ? AND state = {CLAIMED} ORDER BY place
"""
_START = f"""
UPDATE message SET started = 1
WHERE owner = ? AND state = {CLAIMED} AND seq IN (SELECT value FROM json_each(?))
"""
_OVER_LIMIT = f"""
SELECT seq, iif(crashes + started >= ?, 'crash limit: its process died in ' || (crashes + started) || ' runs',
    'delivery limit: its worker was lost in ' || deliveries || ' deliveries'), started
FROM message INDEXED BY message_claimed
WHERE owner = ? AND state = {CLAIMED} AND (crashes + started >= ? OR deliveries >= ?)
"""
_LETTERS = """
SELECT id, queue, reason, died, deliveries, crashes, CAST(body AS BLOB) FROM dead
WHERE id IN (SELECT id FROM message WHERE seq IN (SELECT value FROM json_each(?)))
"""
_TAKE_OVER = f"""
UPDATE message SET state = {READY}, owner = NULL, claim = NULL, deliveries = deliveries + 1,
    crashes = crashes + started, started = 0
WHERE owner = ? AND state = {CLAIMED}
"""
_GIVE_BACK = f"""
UPDATE message SET state = {READY}, owner = NULL, claim = NULL, started = 0
WHERE seq IN (SELECT value FROM json_each(?)) AND state = {CLAIMED}
"""
_ORPHANED = f"state = {CLAIMED} AND (owner IS NULL OR owner NOT IN (SELECT number FROM worker))"
ANY_ORPHANS = f"SELECT 1 FROM message WHERE {_ORPHANED} LIMIT 1"
_RELEASE_ORPHANS = f"""
UPDATE message SET state = {READY}, owner = NULL, claim = NULL, deliveries = deliveries + 1, started = 0
WHERE {_ORPHANED}
"""


def number_of(connection: sqlite3.Connection, worker: Worker) -> int | None:
    """Returns the number under which a worker owns claims, None if it is not listed."""
    row = connection.execute("SELECT number FROM worker WHERE id = ?", (worker.id,)).fetchone()
    return int(row[0]) if row else None


def join(connection: sqlite3.Connection, worker: Worker, number: int | None, now: float) -> int:
    """Lists a worker, or moves its beat; returns its number, which stays the same for its whole life."""
    listed = number_of(connection, worker)
    number = listed or number or messages.take_numbers(connection, 1) + 1
    w = worker
    connection.execute(_JOIN, (number, w.id, w.host, w.boot_id, w.lock, w.dead_after, now))
    return number


def last_command(connection: sqlite3.Connection, worker: Worker) -> int:
    """Returns the number of the last command that was sent before a worker is to hear them. One that is listed had an
    end before this one (a dispatcher that died): what was sent since that one's last beats is heard, perhaps again."""
    seen = connection.execute("SELECT CAST(seen AS REAL) FROM worker WHERE id = ?", (worker.id,)).fetchone()
    until = seen[0] - worker.dead_after if seen else float("inf")
    found = connection.execute("SELECT coalesce(max(n), 0) FROM command WHERE at < ?", (until,)).fetchone()[0]
    return int(found)


def leave(connection: sqlite3.Connection, worker: Worker) -> None:
    """Gives back all that a worker has claimed, and takes it off the list."""
    number = number_of(connection, worker)
    if number is not None:
        give_back(connection, [seq for seq, _, _ in claims(connection, number)])
        connection.execute("DELETE FROM worker WHERE number = ?", (number,))


def claims(connection: sqlite3.Connection, number: int) -> list[tuple[int, bytes, str]]:
    """Returns what a worker has claimed: (seq, claim, queue)."""
    rows = connection.execute(_CLAIMS, (number,)).fetchall()
    return [(seq, b"%d:%d" % (seq, claim), queue) for seq, claim, queue in rows]


def give_back(connection: sqlite3.Connection, rows: Iterable[int]) -> None:
    """Makes claimed messages ready again, at their old places, uncounted."""
    connection.execute(_GIVE_BACK, (as_json(rows),))


def mark_started(connection: sqlite3.Connection, number: int, rows: Iterable[int]) -> None:
    """Marks the claims whose runs have begun."""
    connection.execute(_START, (number, as_json(rows)))


def worker(row: Sequence[Any]) -> tuple[Worker, int]:
    """Returns the worker in a row of `LISTED`, and its beat."""
    id, host, boot_id, lock, dead_after, beat = row
    return Worker(id, host, boot_id, lock, dead_after), beat


def take_over(
    connection: sqlite3.Connection, id: str, beat: int, limits: tuple[int, int], now: float
) -> TakenOver | None:
    """Releases the claims of a dead worker, counted. None when it has moved its beat, or is gone, meanwhile."""
    row = connection.execute("SELECT number FROM worker WHERE id = ? AND beat = ?", (id, beat)).fetchone()
    if row is None:
        return None
    number = int(row[0])
    letters = _bury_hopeless(connection, number, limits, now)
    released = connection.execute(_TAKE_OVER, (number,)).rowcount
    connection.execute("DELETE FROM worker WHERE number = ?", (number,))
    return TakenOver(id, released, letters)


def release_orphans(connection: sqlite3.Connection) -> int:
    """Releases claims of workers that are not listed, as only foreign hands leave them; returns how many."""
    return connection.execute(_RELEASE_ORPHANS).rowcount


def _bury_hopeless(
    connection: sqlite3.Connection, number: int, limits: tuple[int, int], now: float
) -> list[DeadLetter]:
    max_crashes, max_deliveries = limits
    hopeless = connection.execute(_OVER_LIMIT, (max_crashes, number, max_crashes, max_deliveries)).fetchall()
    if not hopeless:
        return []
    rows = [seq for seq, _, _ in hopeless]
    messages.copy_to_dead(connection, json.dumps(hopeless), now)
    letters = [messages.letter(row) for row in connection.execute(_LETTERS, (as_json(rows),)).fetchall()]
    messages.delete(connection, rows)
    return letters
