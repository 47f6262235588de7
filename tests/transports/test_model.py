"""Memory and SQLite, told the same in any order, answer the same; and every message is in exactly one place."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from typing import Any, Protocol

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.contract import (
    Ack,
    Again,
    Batch,
    Consumer,
    Dead,
    DeadLetter,
    Delivery,
    Envelope,
    Record,
    Release,
    ResultBackend,
    Settlement,
    Transport,
    Worker,
)
from engine_memory import MemoryResults, MemoryTransport
from engine_sqlite import SqliteResults, SqliteTransport

IDS = [f"id{n}" for n in range(8)]
QUEUES = ["a", "b"]
HOUR = 3600.0
NOW = time.time()
LIMITS = (3, 4)
some_ids = st.lists(st.sampled_from(IDS), min_size=1, max_size=5)


class End(Protocol):
    """Makes the settlement of a claim."""

    def __call__(self, claim: bytes, name: str, queue: str, record: Record) -> Settlement: ...


def _again(claim: bytes, name: str, queue: str, record: Record) -> Settlement:
    return Again(claim, Envelope(id=name, body=b"again", queue=queue, priority=2), record)


def _later(claim: bytes, name: str, queue: str, record: Record) -> Settlement:
    return Again(claim, Envelope(id=name, body=b"later", queue=queue, due=NOW + HOUR), record)


ENDS: dict[str, End] = {
    "ack": lambda claim, name, queue, record: Ack(claim, record),
    "again": _again,
    "later": _later,
    "dead": lambda claim, name, queue, record: Dead(claim, f"reason of {name}", record),
    "lost": lambda claim, name, queue, record: Dead(claim, f"reason of {name}", record, crashed=True),
    "release": lambda claim, name, queue, record: Release(claim, record=record),
    "delivery": lambda claim, name, queue, record: Release(claim, counts="delivery"),
    "crash": lambda claim, name, queue, record: Release(claim, counts="crash"),
    "delay": lambda claim, name, queue, record: Release(claim, at=NOW + HOUR),
}


def _letter(letter: DeadLetter) -> tuple[str, str, int, int]:
    return letter.id, letter.reason, letter.deliveries, letter.crashes


class Side:
    """One transport, its consumers and what they hold."""

    def __init__(self, transport: Transport, results: ResultBackend) -> None:
        self.transport = transport
        self.results = results
        assert transport.share_results(results)
        self.held: list[dict[str, Delivery]] = []
        self.settled: list[bytes] = []
        self.consumers: list[Consumer] = []
        self.lives = 0
        self.observer = transport.consume([], Worker("observer", "host", "this boot", "/nowhere"))
        for queue in QUEUES:
            self.start(queue)

    def start(self, queue: str) -> None:
        """Brings up a worker whose death an observer sees at once."""
        self.lives += 1
        worker = Worker(f"w{self.lives}", "host", "an earlier boot", "/nowhere")
        self.consumers.append(self.transport.consume([queue], worker))
        self.held.append({})
        self.consumers[-1].reconcile([])

    def crash(self, number: int) -> None:
        """Drops a worker without a goodbye, and starts another in its place."""
        self.start(QUEUES[number])
        self.consumers[number], self.held[number] = self.consumers.pop(), self.held.pop()


class Told(RuleBasedStateMachine):
    """Tells both sides the same, and compares what they answer."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        url, memory = f"sqlite:///{self.folder}/x.db", f"memory://{os.path.basename(self.folder)}"
        self.sides = [
            Side(MemoryTransport(memory, options={}), MemoryResults(memory, expires=HOUR, options={})),
            Side(SqliteTransport(url, options={}), SqliteResults(url, expires=HOUR, options={})),
        ]
        self.numbers = 0

    def teardown(self) -> None:
        """Closes both."""
        for side in self.sides:
            for consumer in [*side.consumers, side.observer]:
                consumer.close()
            side.transport.close()
            side.results.close()
        shutil.rmtree(self.folder)

    def both(self, call: Any) -> Any:
        """Returns what both answer."""
        first, second = (call(side) for side in self.sides)
        assert first == second
        return first

    @rule(
        ids=some_ids, queue=st.sampled_from(QUEUES), priority=st.integers(0, 9), due=st.sampled_from([None, -1, 1, 2])
    )
    def publish(self, ids: list[str], queue: str, priority: int, due: int | None) -> None:
        """Messages, some of them of ids that are alive."""
        at = None if due is None else NOW + due * HOUR
        envelopes = [Envelope(id=id, body=id.encode(), queue=queue, priority=priority, due=at) for id in ids]
        self.both(lambda side: side.transport.publish(envelopes))

    @rule(id=st.sampled_from(IDS), repeated=st.booleans())
    def publish_batch(self, id: str, repeated: bool) -> None:
        """The next batch of a producer, or its last once more."""
        self.numbers += not repeated
        envelope = Envelope(id=id, body=b"batch", queue="a")
        self.both(lambda side: side.transport.publish([envelope], batch=Batch("producer", self.numbers)))

    @rule(number=st.integers(0, 1), limit=st.integers(0, 5))
    def fetch(self, number: int, limit: int) -> None:
        """A worker takes some."""

        def take(side: Side) -> list[Any]:
            taken = side.consumers[number].fetch(limit, 0)
            assert not [d for d in taken if any(d.id in held for held in side.held)], "claimed twice"
            side.held[number].update((d.id, d) for d in taken)
            return [(d.id, d.queue, d.body, d.deliveries, d.crashes, d.priority, d.revoked) for d in taken]

        self.both(take)

    @rule(
        number=st.integers(0, 1),
        count=st.integers(0, 5),
        kinds=st.lists(st.sampled_from(sorted(ENDS)), min_size=5, max_size=5),
    )
    def settle(self, number: int, count: int, kinds: list[str]) -> None:
        """A worker settles some of what it holds, and something stale."""
        ids = list(self.sides[0].held[number])[:count]

        def carry_out(side: Side) -> int:
            settlements: list[Settlement] = [Ack(claim) for claim in side.settled[-1:]]
            for id, kind in zip(ids, kinds, strict=False):
                delivery = side.held[number].pop(id)
                record = Record(id, kind, 1.0, 0, delivery.deliveries, kind.encode(), kind == "ack", kind != "release")
                settlements.append(ENDS[kind](delivery.claim, id, delivery.queue, record))
                side.settled.append(delivery.claim)
            return len(side.consumers[number].settle(settlements))

        self.both(carry_out)

    @rule(number=st.integers(0, 1), started=st.integers(0, 3))
    def renew(self, number: int, started: int) -> None:
        """A beat, with some runs begun."""
        ids = list(self.sides[0].held[number])[:started]
        self.both(lambda side: side.consumers[number].renew([side.held[number][id].claim for id in ids]))

    @rule(number=st.integers(0, 1), kept=st.integers(0, 3))
    def reconcile(self, number: int, kept: int) -> None:
        """A worker has lost track of some of what it had claimed."""
        ids = list(self.sides[0].held[number])[:kept]

        def compare(side: Side) -> Any:
            side.held[number] = {id: side.held[number][id] for id in ids}
            done = side.consumers[number].reconcile([d.claim for d in side.held[number].values()])
            return len(done.lost), sorted(d.id for d in done.held), done.returned

        self.both(compare)

    @rule(number=st.integers(0, 1))
    def crash(self, number: int) -> None:
        """A worker dies, and is taken over."""

        def die(side: Side) -> Any:
            side.crash(number)
            other = side.consumers[1 - number]
            other.renew([])
            taken = side.observer.takeover(*LIMITS)
            side.held[1 - number].clear()
            return sorted((one.worker, one.released, sorted(map(_letter, one.dead))) for one in taken)

        self.both(die)

    @rule(ids=some_ids, ahead=st.sampled_from([-1, 1]))
    def revoke(self, ids: list[str], ahead: int) -> None:
        """Some are revoked."""
        until = NOW + ahead * HOUR
        self.both(lambda side: sorted((f.id, f.queue, f.place) for f in side.transport.revoke(ids, until)))

    @rule(id=st.sampled_from(IDS))
    def replay(self, id: str) -> None:
        """A dead letter is put back."""
        self.both(lambda side: side.transport.replay([id]))

    @rule(ids=some_ids)
    def drop(self, ids: list[str]) -> None:
        """Dead letters are deleted."""
        self.both(lambda side: side.transport.drop(ids))

    @rule(queue=st.sampled_from(QUEUES))
    @precondition(lambda self: self.numbers % 3 == 0)
    def purge(self, queue: str) -> None:
        """A queue is emptied."""
        self.both(lambda side: side.transport.purge(queue))

    @rule(queue=st.sampled_from(QUEUES), paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        """A queue stops or goes on."""
        self.both(lambda side: side.transport.pause(queue, paused))

    @invariant()
    def the_same_is_seen(self) -> None:
        """Counts, places, dead letters, schedule and records."""
        self.both(lambda side: dict(side.transport.counts(QUEUES)))
        self.both(lambda side: [side.transport.find(id) for id in IDS])
        self.both(lambda side: [(x.id, x.reason, x.deliveries, x.crashes, x.body) for x in side.transport.dead()])
        self.both(lambda side: sorted((x.id, x.queue, x.body) for x in side.transport.scheduled()))
        self.both(lambda side: dict(side.results.get(IDS)))

    @invariant()
    def what_is_held_is_claimed(self) -> None:
        """The broker knows as claimed what the workers hold, and nothing else."""
        for side in self.sides:
            claimed = sum(counts.claimed for counts in side.transport.counts(QUEUES).values())
            assert claimed == sum(map(len, side.held))


TestTold = Told.TestCase
TestTold.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
