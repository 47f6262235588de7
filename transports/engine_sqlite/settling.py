"""The settle lane: all settlements of a batch in one transaction, with their records."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from engine.contract import Again, Dead, Envelope, Record, Release, Settlement
from engine_sqlite import messages
from engine_sqlite import records as kept
from engine_sqlite.bell import Ringer
from engine_sqlite.clock import Clock
from engine_sqlite.session import Database, Session


class SettleLane:
    """The connection of one worker's settle lane."""

    def __init__(self, database: Database, worker: str, expires: float | None) -> None:
        self._session = Session(database)
        self._ringer = Ringer(self._session)
        self._clock = Clock()
        self._worker = worker
        self._keeper = kept.Keeper(expires) if expires is not None else None

    def settle(self, settlements: Sequence[Settlement]) -> list[bytes]:
        """Carries out settlements and returns the claims that were stale."""
        rows = [row_of(settlement.claim) for settlement in settlements]
        now = self._clock.now()
        with self._session.write() as connection:
            held, consumers, clients = messages.held(connection, filter(None, rows), self._worker, now)
            plan = _Plan()
            for row, settlement in zip(rows, settlements, strict=True):
                if row is not None and settlement.claim in held:
                    held.remove(settlement.claim)
                    plan.add(row, settlement)
                else:
                    plan.stale.append(settlement.claim)
            self._carry_out(connection, plan, now)
        if plan.released or plan.again:
            self._ringer.ring(consumers)
        if self._keeper is not None and kept.has_final(plan.records):
            self._ringer.ring(clients)
        return plan.stale

    def close(self) -> None:
        """Closes the connection."""
        self._session.close()
        self._ringer.close()

    def _carry_out(self, connection: sqlite3.Connection, plan: _Plan, now: float) -> None:
        if plan.buried:
            messages.copy_to_dead(connection, json.dumps(plan.buried), now)
        messages.delete(connection, plan.ended)
        messages.release(connection, plan.released)
        if plan.again:
            messages.publish(connection, plan.again, now)
        if self._keeper is not None and plan.records:
            self._keeper.store(connection, plan.records, now)


class _Plan:
    """A batch, sorted by what is to be done."""

    def __init__(self) -> None:
        self.stale: list[bytes] = []
        self.ended: list[int] = []
        self.again: list[Envelope] = []
        self.buried: list[tuple[int, str, bool]] = []
        self.released: list[tuple[int, float | None, bool, bool]] = []
        self.records: list[Record] = []

    def add(self, row: int, settlement: Settlement) -> None:
        if settlement.record is not None:
            self.records.append(settlement.record)
        if isinstance(settlement, Release):
            counts = settlement.counts
            self.released.append((row, settlement.at, counts != "nothing", counts == "crash"))
            return
        self.ended.append(row)
        if isinstance(settlement, Again):
            self.again.append(settlement.envelope)
        elif isinstance(settlement, Dead):
            self.buried.append((row, settlement.reason, settlement.crashed))


def row_of(claim: bytes) -> int | None:
    """Returns the row that a claim names; None for what is no claim of ours."""
    row, separator, number = claim.partition(b":")
    return int(row) if separator and row.isdigit() and number.isdigit() else None
