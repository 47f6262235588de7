"""A worker's end of RabbitMQ."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from engine.contract import (
    Ack,
    Again,
    Consumer,
    Dead,
    DeadLetter,
    Delivery,
    Reconciled,
    Release,
    Settlement,
    TakenOver,
)
from engine_rabbitmq.confirms import Publication
from engine_rabbitmq.messages import Entry, Outgoing, copy_of, dead_copy, outgoing
from engine_rabbitmq.publisher import Publisher
from engine_rabbitmq.session import Session

_COUNTED = {"nothing": (0, 0), "delivery": (1, 0), "crash": (1, 1)}


class RabbitConsumer(Consumer):
    """What the lanes call. It connects at the first use; when the connection is lost, it stays lost."""

    def __init__(self, connect: Callable[[], Session], publisher: Publisher) -> None:
        self._connect = connect
        self._publisher = publisher
        self._session: Session | None = None
        self._woken = False

    def fetch(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """See `Consumer.fetch`."""
        session = self._up()
        if self._woken:
            self._woken, timeout = False, 0.0
        return session.fetch(limit, timeout)

    def wake(self) -> None:
        """See `Consumer.wake`."""
        session = self._session
        if session is None:
            self._woken = True
        else:
            session.wake()

    def renew(self, started: Collection[bytes]) -> None:
        """Does nothing but notice a lost connection: the server itself sees to who lives."""
        session = self._up()
        if session.connection.error is not None:
            raise session.connection.error

    def reconcile(self, held: Collection[bytes]) -> Reconciled:
        """See `Consumer.reconcile`. Claims of an earlier connection are lost: the server gave the messages back."""
        session = self._up()
        returned = session.give_back_unheld(held)
        with session.ready:
            known = {claim: session.held[claim] for claim in held if claim in session.held}
        lost = [claim for claim in held if claim not in known]
        deliveries = [entry.delivery(self._publisher.catalogue.is_revoked(entry.id)) for entry in known.values()]
        return Reconciled(lost, deliveries, len(returned))

    def takeover(self, max_crashes: int, max_deliveries: int) -> Sequence[TakenOver]:
        """Takes nothing over: the server gives back what a lost connection held. Of what came back too often it makes
        dead letters."""
        session = self._up()
        session.most_deliveries = max_deliveries
        poison = session.take_poison()
        if not poison:
            return ()
        letters = [_letter(entry) for entry in poison]
        now = time.time()
        self._publisher.publish(
            [dead_copy(entry, letter.reason, now) for entry, letter in zip(poison, letters, strict=True)]
        )
        session.acknowledge(poison)
        return [TakenOver("behind a lost connection", 0, letters)]

    def commands(self) -> Sequence[bytes]:
        """See `Consumer.commands`."""
        session = self._session
        return session.take_commands() if session is not None else ()

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[bytes]:
        """See `Consumer.settle`. First copies and retries are published and confirmed, then everything is
        acknowledged: a crash in between leaves both, and the copies are marked."""
        session = self._up()
        if session.connection.error is not None:
            raise session.connection.error
        stale: list[bytes] = []
        ending: dict[bytes, Entry] = {}
        changed: list[tuple[Entry, Settlement]] = []
        for settlement in settlements:
            claim = settlement.claim
            entry = session.held.get(claim)
            if entry is None or claim in ending:
                stale.append(claim)
                continue
            ending[claim] = entry
            if type(settlement) is not Ack:
                changed.append((entry, settlement))
        if changed:
            self._send_successors(changed)
        session.acknowledge(ending.values())
        return stale

    def close(self) -> None:
        """See `Consumer.close`."""
        if self._session is not None:
            self._session.close()

    def _up(self) -> Session:
        if self._session is None:
            self._session = self._connect()
        return self._session

    def _send_successors(self, changed: Sequence[tuple[Entry, Settlement]]) -> None:
        """Publishes what takes the place of entries. What an earlier attempt at the same settlement has sent, or is
        sending still, is not sent again."""
        now = time.time()
        new: list[tuple[Entry, Settlement]] = []
        before: dict[Publication, None] = {}
        for entry, settlement in changed:
            if entry.successor is not None and entry.successor[0] == settlement:
                before[entry.successor[1]] = None
            else:
                new.append((entry, settlement))
        if new:
            publication = Publication([_successor(settlement, entry, now) for entry, settlement in new])
            for entry, settlement in new:
                entry.successor = (settlement, publication)
            before[publication] = None
        for publication in before:
            if len(publication.confirmed) < len(publication.items):
                self._publisher.send(publication)


def _successor(settlement: Settlement, entry: Entry, now: float) -> Outgoing:
    if isinstance(settlement, Again):
        return outgoing(settlement.envelope, settlement.envelope.due, now, retry=True)
    if isinstance(settlement, Release):
        deliveries, crashes = _COUNTED[settlement.counts]
        return copy_of(entry, settlement.at, now, deliveries=deliveries, crashes=crashes)
    assert isinstance(settlement, Dead), settlement
    return dead_copy(entry, settlement.reason, now, crashes=int(settlement.crashed))


def _letter(entry: Entry) -> DeadLetter:
    reason = f"delivery limit: its worker was lost in {entry.deliveries - 1} deliveries"
    return DeadLetter(entry.id, entry.queue, reason, time.time(), entry.deliveries, entry.crashes, entry.body)
