"""``MemoryTransport`` and its consumer."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from engine.contract import (
    Batch,
    Capabilities,
    Consumer,
    DeadLetter,
    Delivery,
    Envelope,
    Found,
    QueueCounts,
    Reconciled,
    Record,
    Scheduled,
    Settlement,
    TakenOver,
    Transport,
    Worker,
)
from engine.contract.liveness import DeathWatch
from engine.errors import ConfigError
from engine_memory.broker import Broker, Member, broker_of
from engine_memory.results import MemoryResults

_LISTED_BODY = 64 * 1024


class MemoryTransport(Transport):
    """The broker of ``memory://`` and ``memory://name``. Any thread may call it."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        delays=True,
        prioritises=True,
        publishes_once=True,
        settles_retry_atomically=True,
        stores_results=True,
        finds=True,
        lists_scheduled=True,
        revokes=True,
        broadcasts=True,
        in_process=True,
    )

    def __init__(self, url: str, *, options: Mapping[str, Any]) -> None:
        super().__init__(url, options=options)
        if not url.startswith("memory://") or "?" in url:
            raise ConfigError(f'[broker] url = "{url}": write "memory://" or "memory://name"')
        self._results: MemoryResults | None = None

    @property
    def _broker(self) -> Broker:
        return broker_of(self.url)

    def publish(self, envelopes: Sequence[Envelope], *, batch: Batch | None = None) -> None:
        """See `Transport.publish`."""
        broker = self._broker
        with broker.changed:
            broker.publish(envelopes, batch)

    def consume(self, queues: Sequence[str], worker: Worker) -> Consumer:
        """See `Transport.consume`."""
        return MemoryConsumer(self.url, queues, worker, self._results)

    def share_results(self, backend: object) -> bool:
        """See `Transport.share_results`."""
        if not isinstance(backend, MemoryResults) or backend.url != self.url:
            return False
        self._results = backend
        return True

    def counts(self, queues: Sequence[str] | None = None) -> Mapping[str, QueueCounts]:
        """See `Transport.counts`."""
        broker = self._broker
        with broker.changed:
            counts = broker.counts()
            paused = set(broker.paused)
        names = queues if queues is not None else sorted({q for places in counts.values() for q in places} | paused)
        return {
            name: QueueCounts(**{place: found[name] for place, found in counts.items()}, paused=name in paused)
            for name in names
        }

    def revoke(self, ids: Sequence[str], until: float) -> Sequence[Found]:
        """See `Transport.revoke`."""
        broker = self._broker
        with broker.changed:
            return broker.revoke(ids, until)

    def find(self, id: str) -> Found | None:
        """See `Transport.find`."""
        broker = self._broker
        with broker.changed:
            if (entry := broker.alive.get(id)) is not None:
                return entry.found()
            if (dead := broker.dead.get(id)) is not None:
                return Found(id, dead.letter.queue, "dead", None, dead.letter.body)
            return None

    def scheduled(self, limit: int = 100, queue: str | None = None) -> Sequence[Scheduled]:
        """See `Transport.scheduled`."""
        broker = self._broker
        with broker.changed:
            chosen = (entry for entry in broker.delayed() if queue is None or entry.queue == queue)
            return [entry.scheduled() for entry in islice(chosen, limit)]

    def dead(self, limit: int = 100, queue: str | None = None) -> Sequence[DeadLetter]:
        """See `Transport.dead`."""
        broker = self._broker
        with broker.changed:
            letters = (dead.letter for dead in reversed(broker.dead.values()))
            chosen = islice((letter for letter in letters if queue is None or letter.queue == queue), limit)
            return [_cut(letter) for letter in chosen]

    def dead_letter(self, id: str) -> DeadLetter | None:
        """See `Transport.dead_letter`."""
        broker = self._broker
        with broker.changed:
            dead = broker.dead.get(id)
            return dead.letter if dead is not None else None

    def replay(self, ids: Sequence[str]) -> int:
        """See `Transport.replay`. A dead letter stays while another message of its id is alive."""
        broker = self._broker
        with broker.changed:
            return broker.replay(ids)

    def drop(self, ids: Sequence[str]) -> int:
        """See `Transport.drop`."""
        broker = self._broker
        with broker.changed:
            return sum(broker.dead.pop(id, None) is not None for id in ids)

    def purge(self, queue: str) -> int:
        """See `Transport.purge`."""
        broker = self._broker
        with broker.changed:
            return broker.purge(queue)

    def pause(self, queue: str, paused: bool) -> None:
        """See `Transport.pause`."""
        broker = self._broker
        with broker.changed:
            (broker.paused.add if paused else broker.paused.discard)(queue)
            broker.changed.notify_all()

    def broadcast(self, command: bytes) -> None:
        """See `Transport.broadcast`."""
        broker = self._broker
        with broker.changed:
            broker.command_number += 1
            broker.commands.append((broker.command_number, command))
            broker.changed.notify_all()

    def close(self) -> None:
        """Does nothing: the messages belong to the process."""


class MemoryConsumer(Consumer):
    """A worker's end. The lanes are serialised by the broker's lock."""

    def __init__(self, url: str, queues: Sequence[str], worker: Worker, results: MemoryResults | None) -> None:
        self._broker = broker_of(url)
        self._queues = frozenset(queues)
        self._worker = worker
        self._results = results
        self._watch = DeathWatch(worker)
        self._commands_seen = self._broker.command_number
        self._woken = False

    @property
    def _member(self) -> Member:
        member = self._broker.members.get(self._worker.id)
        if member is None:
            member = self._broker.members[self._worker.id] = Member(self._worker)
        return member

    def fetch(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """See `Consumer.fetch`."""
        broker = self._broker
        deadline = time.monotonic() + timeout
        with broker.changed:
            while True:
                taken = broker.claim(self._member, self._queues, limit) if limit > 0 else []
                left = deadline - time.monotonic()
                if taken or self._woken or left <= 0 or self._has_commands():
                    self._woken = False
                    return broker.deliveries(taken)
                due = broker.until_due() if limit > 0 else None
                broker.changed.wait(left if due is None else min(left, due))

    def wake(self) -> None:
        """See `Consumer.wake`."""
        with self._broker.changed:
            self._woken = True
            self._broker.changed.notify_all()

    def renew(self, started: Collection[bytes]) -> None:
        """See `Consumer.renew`."""
        with self._broker.changed:
            member = self._member
            member.beat += 1
            for claim in started:
                if (entry := member.claims.get(claim)) is not None:
                    entry.started = True

    def reconcile(self, held: Collection[bytes]) -> Reconciled:
        """See `Consumer.reconcile`."""
        broker = self._broker
        with broker.changed:
            claims = self._member.claims
            lost = [claim for claim in held if claim not in claims]
            keep = set(held)
            returned = [claims.pop(claim) for claim in [*claims] if claim not in keep]
            broker.give_back(returned)
            return Reconciled(lost, broker.deliveries(claims.values()), len(returned))

    def takeover(self, max_crashes: int, max_deliveries: int) -> Sequence[TakenOver]:
        """See `Consumer.takeover`."""
        broker = self._broker
        with broker.changed:
            seen = [(member.worker, member.beat) for member in broker.members.values()]
        dead = self._watch.dead(seen)
        with broker.changed:
            return [
                self._take_over(broker.members[id], max_crashes, max_deliveries) for id in dead if id in broker.members
            ]

    def commands(self) -> Sequence[bytes]:
        """See `Consumer.commands`."""
        if not self._has_commands():
            return ()
        with self._broker.changed:
            unseen = [command for number, command in self._broker.commands if number > self._commands_seen]
            self._commands_seen = self._broker.command_number
            return unseen

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[bytes]:
        """See `Consumer.settle`."""
        broker = self._broker
        records: list[Record] | None = [] if self._results is not None else None
        with broker.changed:
            member = broker.members.get(self._worker.id)
            if member is None:  # never met, or taken over
                return [settlement.claim for settlement in settlements]
            stale = broker.settle(member, settlements, records)
            if records and self._results is not None:
                broker.records.store(records, self._results.expires)
                broker.changed.notify_all()
            return stale

    def close(self) -> None:
        """See `Consumer.close`."""
        broker = self._broker
        with broker.changed:
            member = broker.members.pop(self._worker.id, None)
            if member is not None:
                broker.give_back([*member.claims.values()])

    def _has_commands(self) -> bool:
        return self._broker.command_number > self._commands_seen

    def _take_over(self, dead: Member, max_crashes: int, max_deliveries: int) -> TakenOver:
        released, letters = self._broker.take_over(dead, max_crashes, max_deliveries)
        return TakenOver(dead.worker.id, released, letters)


def _cut(letter: DeadLetter) -> DeadLetter:
    if len(letter.body) <= _LISTED_BODY:
        return letter
    return DeadLetter(
        letter.id,
        letter.queue,
        letter.reason,
        letter.died,
        letter.deliveries,
        letter.crashes,
        letter.body[:_LISTED_BODY],
    )
