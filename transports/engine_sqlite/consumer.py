"""``SqliteConsumer``: the broker as a worker sees it. The fetch lane and the settle lane have a connection each."""

from __future__ import annotations

import random
import secrets
import sqlite3
import time
from collections.abc import Collection, Sequence

from engine.contract import Consumer, Delivery, Reconciled, Settlement, TakenOver, Worker
from engine.contract.liveness import DeathWatch
from engine_sqlite import members, messages
from engine_sqlite import records as kept
from engine_sqlite.bell import COMMANDS, FOREVER, Bell, Ringer, listed, queue_topic
from engine_sqlite.choice import LINES, Choice
from engine_sqlite.clock import Clock
from engine_sqlite.reading import read_deliveries
from engine_sqlite.schema import DELAYED
from engine_sqlite.session import Database, Session
from engine_sqlite.settling import SettleLane, row_of

LOOK_AGAIN = 0.5
"""Seconds after which a waiting fetch compares the file's version, whatever happens to bells."""
BYTES_AT_ONCE = 64 * 1024 * 1024
"""Bytes of bodies that one fetch should return at most, going by the sizes it has seen."""
REMEMBERED = 3600.0
"""Seconds for which producers' numbers and commands are kept."""
TIDY_EVERY = 60.0
"""Seconds between two looks for what can be forgotten."""
EXPIRED_AT_ONCE = 2000
# Text, which foreign hands may have put there, is greater than any number.
NEXT_DUE = f"SELECT min(due) FROM message WHERE state = {DELAYED} AND due < {FOREVER}"
_LOOK = f"""
SELECT (SELECT number FROM worker WHERE id = ?), ({NEXT_DUE}), ({LINES})
"""


class SqliteConsumer(Consumer):
    """A worker's end of the file."""

    def __init__(self, database: Database, queues: Sequence[str], worker: Worker, expires: float | None) -> None:
        self._session = Session(database)
        self._ringer = Ringer(self._session)
        self._settle_lane = SettleLane(database, worker.id, expires)
        self._worker = worker
        self._choice = Choice(queues)
        self._watch = DeathWatch(worker)
        self._clock = Clock()
        self._bell: Bell | None = None
        self._woken = False
        self._number: int | None = None
        self._next_due: float | None = None
        self._started: set[bytes] = set()
        self._inbox: list[bytes] = []
        self._last_command = 0
        self._looked = 0.0
        self._tidied = 0.0
        self._average = 1024.0
        # Claim numbers need no more than never to meet again: 62 random bits, and no counter to write.
        self._random = random.Random(secrets.randbits(128))

    def fetch(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """See `Consumer.fetch`."""
        deadline = time.monotonic() + timeout
        if self._number is None:
            self._first_join()
        taken = self._take(limit)
        if not taken and timeout > 0:
            taken = self._wait(limit, deadline)
        self._woken = False
        return taken

    def wake(self) -> None:
        """See `Consumer.wake`."""
        self._woken = True
        bell = self._bell
        if bell is not None:
            bell.ring_here()

    def renew(self, started: Collection[bytes]) -> None:
        """See `Consumer.renew`."""
        now = self._clock.now()
        claims = set(started)
        fresh = [row for row in map(row_of, claims - self._started) if row is not None]
        with self._session.write() as connection:
            number = self._join(connection, now)
            if fresh:
                members.mark_started(connection, number, fresh)
            self._tidy(connection, now)
        self._started = claims

    def reconcile(self, held: Collection[bytes]) -> Reconciled:
        """See `Consumer.reconcile`."""
        now = self._clock.now()
        keep = set(held)
        with self._session.write() as connection:
            mine = members.claims(connection, self._join(connection, now))
            returned = [seq for seq, claim, _ in mine if claim not in keep]
            members.give_back(connection, returned)
            queues = {seq: queue for seq, claim, queue in mine if claim in keep}
            deliveries = read_deliveries(connection, [*queues], queues, now)
            waiting = listed(connection, (COMMANDS,), now) if returned else "[]"
        self._ringer.ring(waiting)
        return Reconciled([*(keep - {claim for _, claim, _ in mine})], deliveries, len(returned))

    def takeover(self, max_crashes: int, max_deliveries: int) -> Sequence[TakenOver]:
        """See `Consumer.takeover`."""
        workers = [members.worker(row) for row in self._session.read(members.LISTED)]
        beats = {worker.id: beat for worker, beat in workers}
        limits = (max_crashes, max_deliveries)
        taken = [over for id in self._watch.dead(workers) if (over := self._take_over(id, beats[id], limits))]
        if self._session.read(members.ANY_ORPHANS):
            with self._session.write() as connection:
                members.release_orphans(connection)
        return taken

    def commands(self) -> Sequence[bytes]:
        """See `Consumer.commands`."""
        if self._number is not None and time.monotonic() - self._looked >= LOOK_AGAIN:
            self._look_for_commands()
        commands, self._inbox = self._inbox, []
        return commands

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[bytes]:
        """See `Consumer.settle`."""
        return self._settle_lane.settle(settlements) if settlements else []

    def close(self) -> None:
        """See `Consumer.close`."""
        try:
            with self._session.write() as connection:
                members.leave(connection, self._worker)
                if self._bell is not None:
                    self._bell.strike(connection)
                waiting = listed(connection, (COMMANDS,), self._clock.now())
            self._ringer.ring(waiting)
        finally:
            self._settle_lane.close()
            self._ringer.close()
            self._session.close()
            if self._bell is not None:
                self._bell.close()

    def _first_join(self) -> None:
        with self._session.write() as connection:
            self._join(connection, self._clock.now())

    def _join(self, connection: sqlite3.Connection, now: float) -> int:
        if self._bell is None:
            self._bell = Bell()
        if self._number is None or members.number_of(connection, self._worker) is None:
            self._last_command = members.last_command(connection, self._worker)
        self._number = members.join(connection, self._worker, self._number, now)
        self._bell.list_under(connection, [COMMANDS, *map(queue_topic, self._choice.queues)], FOREVER)
        return self._number

    def _take(self, limit: int) -> list[Delivery]:
        if limit <= 0:
            return []
        limit = min(limit, max(1, int(BYTES_AT_ONCE / self._average)))
        now = self._clock.now()
        with self._session.write() as connection:
            looked = self._worker.id, *self._choice.parameters(limit)
            number, due, lines = connection.execute(_LOOK, looked).fetchone()
            if due is not None and due <= now:
                messages.promote(connection, now)
                number, due, lines = connection.execute(_LOOK, looked).fetchone()
            self._next_due = due
            if number is None:  # taken for dead, and back: what is claimed from here on must have an owner
                number = self._join(connection, now)
            chosen = self._choice.choose(lines, looked[1], limit)
            return self._claim(connection, number, chosen, now) if chosen else []

    def _claim(
        self, connection: sqlite3.Connection, number: int, chosen: list[tuple[int, int]], now: float
    ) -> list[Delivery]:
        rows = [seq for seq, _ in chosen]
        messages.claim(connection, rows, number, self._random.getrandbits(62))
        names = self._choice.queues
        deliveries = read_deliveries(connection, rows, {seq: names[queue] for seq, queue in chosen}, now)
        self._average = max(1024.0, sum(len(delivery.body) for delivery in deliveries) / len(deliveries))
        return deliveries

    def _wait(self, limit: int, deadline: float) -> list[Delivery]:
        while True:
            # Before the look that finds nothing: what is written after that look then shows in the version.
            version = self._session.version()
            taken = self._take(limit)
            self._look_for_commands()
            if taken or self._woken or self._inbox or not self._sleep(version, limit > 0, deadline):
                return taken

    def _sleep(self, version: int, for_due: bool, deadline: float) -> bool:
        """Sleeps until there may be something; False when it is the deadline that came."""
        bell = self._bell
        while bell is not None and not self._woken:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if for_due and self._next_due is not None:
                due_in = self._next_due - self._clock.now()
                if due_in <= 0:
                    return True
                left = min(left, due_in)
            if bell.wait(min(left, LOOK_AGAIN)) or self._session.version() != version:
                return True
        return True

    def _look_for_commands(self) -> None:
        self._looked = time.monotonic()
        for number, body in self._session.read(
            "SELECT n, CAST(body AS BLOB) FROM command WHERE n > ? ORDER BY n", (self._last_command,)
        ):
            self._last_command = number
            self._inbox.append(body)

    def _take_over(self, id: str, beat: int, limits: tuple[int, int]) -> TakenOver | None:
        now = self._clock.now()
        with self._session.write() as connection:
            taken = members.take_over(connection, id, beat, limits, now)
            waiting = listed(connection, (COMMANDS,), now)
        self._ringer.ring(waiting)
        return taken

    def _tidy(self, connection: sqlite3.Connection, now: float) -> None:
        if time.monotonic() - self._tidied < TIDY_EVERY:
            return
        self._tidied = time.monotonic()
        connection.execute("DELETE FROM producer WHERE at < ?", (now - REMEMBERED,))
        connection.execute("DELETE FROM command WHERE at < ?", (now - REMEMBERED,))
        connection.execute("DELETE FROM revoked WHERE until <= ?", (now,))
        connection.execute("DELETE FROM bell WHERE until <= ?", (now,))
        kept.purge(connection, now, EXPIRED_AT_ONCE)
