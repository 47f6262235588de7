"""``SqliteTransport``: the broker as its clients see it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from engine.contract import (
    Batch,
    Capabilities,
    Consumer,
    DeadLetter,
    Envelope,
    Found,
    QueueCounts,
    Scheduled,
    Transport,
    Worker,
)
from engine_sqlite import messages
from engine_sqlite.bell import COMMANDS, Ringer, listed
from engine_sqlite.clock import Clock
from engine_sqlite.consumer import SqliteConsumer
from engine_sqlite.results import SqliteResults
from engine_sqlite.schema import CLAIMED, DELAYED, READY
from engine_sqlite.session import Database, Session, checked

_LISTED_BODY = 64 * 1024
_PLACES = {READY: "ready", DELAYED: "delayed", CLAIMED: "claimed"}
_FOUND = f"""
SELECT CAST(id AS TEXT), CAST(queue AS TEXT), state, iif(state = {DELAYED}, due, NULL), CAST(body AS BLOB) FROM message
WHERE id IN (SELECT value FROM json_each(?))
"""
_LETTER = "SELECT CAST(id AS TEXT), CAST(queue AS TEXT), reason, died, deliveries, crashes"


class SqliteTransport(Transport):
    """The broker in one file. One thread at a time, any thread."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        delays=True,
        prioritises=True,
        publishes_once=True,
        settles_retry_atomically=True,
        keeps_claims=True,
        stores_results=True,
        finds=True,
        lists_scheduled=True,
        revokes=True,
        broadcasts=True,
        durable=True,
    )
    options: ClassVar[Mapping[str, type]] = {"synchronous": str, "busy_timeout": float}

    def __init__(self, url: str, *, options: Mapping[str, Any]) -> None:
        super().__init__(url, options=options)
        self.database = Database(url, "broker", options)
        self._session = Session(self.database)
        self._ringer = Ringer(self._session)
        self._clock = Clock()
        self._expires: float | None = None

    def publish(self, envelopes: Sequence[Envelope], *, batch: Batch | None = None) -> None:
        """See `Transport.publish`."""
        if not envelopes:
            return
        now = self._clock.now()
        with self._session.write() as connection:
            if batch is not None and not messages.is_new(connection, batch, now):
                return
            waiting = messages.publish(connection, envelopes, now)
        self._ringer.ring(waiting)

    def consume(self, queues: Sequence[str], worker: Worker) -> Consumer:
        """See `Transport.consume`."""
        return SqliteConsumer(self.database, queues, worker, self._expires)

    def share_results(self, backend: object) -> bool:
        """See `Transport.share_results`."""
        if not isinstance(backend, SqliteResults) or not backend.database.same_file(self.database):
            return False
        self._expires = backend.expires
        return True

    def counts(self, queues: Sequence[str] | None = None) -> Mapping[str, QueueCounts]:
        """See `Transport.counts`."""
        found: dict[str, dict[str, Any]] = {}
        where, names = (
            ("", ()) if queues is None else (" WHERE queue IN (SELECT value FROM json_each(?))", _json(queues))
        )
        for queue, state, count in self._session.read(_count(where), names * 4):
            found.setdefault(queue, {})[_PLACES.get(state, "dead")] = count
        for (queue,) in self._session.read(f"SELECT queue FROM paused{where}", names):
            found.setdefault(queue, {})["paused"] = True
        return {queue: QueueCounts(**found.get(queue, {})) for queue in (sorted(found) if queues is None else queues)}

    def revoke(self, ids: Sequence[str], until: float) -> Sequence[Found]:
        """See `Transport.revoke`."""
        chosen = _json(ids)
        with self._session.write() as connection:
            connection.execute(
                "INSERT INTO revoked SELECT value, ? FROM json_each(?) WHERE true "
                "ON CONFLICT (id) DO UPDATE SET until = max(until, excluded.until)",
                (until, *chosen),
            )
            rows = connection.execute(f"{_FOUND} AND state IN ({READY}, {DELAYED})", chosen).fetchall()
            connection.execute(
                "DELETE FROM message WHERE id IN (SELECT value FROM json_each(?))", _json([row[0] for row in rows])
            )
        return [_found(row) for row in rows]

    def find(self, id: str) -> Found | None:
        """See `Transport.find`."""
        rows = self._session.read(_FOUND, _json([id]))
        if rows:
            return _found(rows[0])
        dead = self.dead_letter(id)
        return Found(id, dead.queue, "dead", None, dead.body) if dead else None

    def scheduled(self, limit: int = 100, queue: str | None = None) -> Sequence[Scheduled]:
        """See `Transport.scheduled`."""
        rows = self._session.read(
            "SELECT CAST(id AS TEXT), CAST(queue AS TEXT), due, CAST(body AS BLOB) FROM message "
            f"WHERE state = {DELAYED} AND (?1 IS NULL OR queue = ?1) ORDER BY due, seq LIMIT ?2",
            (queue, limit),
        )
        return [Scheduled(*row) for row in rows]

    def dead(self, limit: int = 100, queue: str | None = None) -> Sequence[DeadLetter]:
        """See `Transport.dead`."""
        rows = self._session.read(
            f"{_LETTER}, coalesce(substr(CAST(body AS BLOB), 1, {_LISTED_BODY}), x'') FROM dead "
            "WHERE ?1 IS NULL OR queue = ?1 ORDER BY died DESC, rowid DESC LIMIT ?2",
            (queue, limit),
        )
        return [messages.letter(row) for row in rows]

    def dead_letter(self, id: str) -> DeadLetter | None:
        """See `Transport.dead_letter`."""
        rows = self._session.read(f"{_LETTER}, CAST(body AS BLOB) FROM dead WHERE id = ?", (id,))
        return messages.letter(rows[0]) if rows else None

    def replay(self, ids: Sequence[str]) -> int:
        """See `Transport.replay`. A dead letter stays while another message of its id is alive."""
        now = self._clock.now()
        with self._session.write() as connection:
            replayed = messages.replay(connection, json.dumps([*ids]), len(ids))
            waiting = listed(connection, (COMMANDS,), now)
        self._ringer.ring(waiting)
        return replayed

    def drop(self, ids: Sequence[str]) -> int:
        """See `Transport.drop`."""
        with self._session.write() as connection:
            return connection.execute(
                "DELETE FROM dead WHERE id IN (SELECT value FROM json_each(?))", _json(ids)
            ).rowcount

    def purge(self, queue: str) -> int:
        """See `Transport.purge`."""
        with self._session.write() as connection:
            return connection.execute(
                f"DELETE FROM message WHERE queue = ? AND state IN ({READY}, {DELAYED})", (queue,)
            ).rowcount

    def pause(self, queue: str, paused: bool) -> None:
        """See `Transport.pause`."""
        statement = "INSERT OR IGNORE INTO paused VALUES (?)" if paused else "DELETE FROM paused WHERE queue = ?"
        now = self._clock.now()
        with self._session.write() as connection:
            connection.execute(statement, (queue,))
            waiting = listed(connection, (COMMANDS,), now)
        self._ringer.ring(waiting)

    def broadcast(self, command: bytes) -> None:
        """See `Transport.broadcast`."""
        now = self._clock.now()
        with self._session.write() as connection:
            connection.execute("INSERT INTO command (at, body) VALUES (?, ?)", (now, command))
            waiting = listed(connection, (COMMANDS,), now)
        self._ringer.ring(waiting)

    def check(self) -> Sequence[str]:
        """See `Transport.check`."""
        return checked(self._session)

    def close(self) -> None:
        """See `Transport.close`."""
        self._session.close()
        self._ringer.close()


def _json(values: Sequence[str]) -> tuple[str]:
    return (json.dumps([*values]),)


def _found(row: Sequence[Any]) -> Found:
    id, queue, state, due, body = row
    return Found(id, queue, _PLACES[state], due, body)  # type: ignore[arg-type]  # one of the three


def _count(where: str) -> str:
    # One SELECT for each state: each is answered from its own index.
    alive = " UNION ALL ".join(
        f"SELECT CAST(queue AS TEXT), {state} AS state, count(*) FROM message{where or ' WHERE true'} "
        f"AND state = {state} GROUP BY queue"
        for state in (READY, DELAYED, CLAIMED)
    )
    return f"{alive} UNION ALL SELECT CAST(queue AS TEXT), -1, count(*) FROM dead{where} GROUP BY queue"
