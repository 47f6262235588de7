"""The Redis protocol against the reference: whatever is done in whatever order, both say the same, and the keys agree.

A worker dies, loses replies, comes back, repeats itself; the memory transport goes through the same in one process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine.contract import Ack, Again, Batch, Consumer, Dead, Delivery, Envelope, Release, Transport, Worker
from engine_memory import MemoryTransport
from engine_redis import RedisTransport
from servers import RedisServer, redis_server

UUIDS = ["019a2b3c-4d5e-7f60-a123-0a20ff0d0000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
IDS = st.sampled_from(["a", "b", "c", "x" * 60, *UUIDS])
QUEUES = ("one", "two")
HOUR = 3600.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of this file's own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Side:
    """One of the two brokers, with a worker for each queue."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.workers: dict[str, Worker] = {}
        self.consumers: dict[str, Consumer] = {}
        self.held: dict[str, dict[str, Delivery]] = {queue: {} for queue in QUEUES}
        for queue in QUEUES:
            self.replace(queue)

    def replace(self, queue: str) -> None:
        """Gives a queue a new worker; nothing is said of the old one."""
        # Another boot of the same host: that the one before is dead is certain at once.
        worker = Worker(f"w-{os.urandom(6).hex()}", f"host-{queue}", f"boot-{os.urandom(4).hex()}", "/none")
        self.workers[queue] = worker
        self.consumers[queue] = self.transport.consume([queue], worker)
        self.consumers[queue].reconcile(())
        self.consumers[queue].renew(())
        self.held[queue] = {}

    def close(self) -> None:
        """Closes everything."""
        for consumer in self.consumers.values():
            consumer.close()
        self.transport.close()


def seen(delivery: Delivery) -> tuple[Any, ...]:
    """What must be the same on both sides."""
    return (
        delivery.id,
        delivery.queue,
        delivery.body,
        delivery.deliveries,
        delivery.crashes,
        delivery.priority,
        delivery.revoked,
    )


class Protocol(RuleBasedStateMachine):
    """What clients, workers and operators do."""

    server: RedisServer

    @initialize()
    def start(self) -> None:
        self.server.expect("FLUSHALL")
        self.number = 0
        self.redis = Side(RedisTransport(self.server.url, options={}))
        self.memory = Side(MemoryTransport(f"memory://{os.urandom(8).hex()}", options={}))
        self.sides = (self.redis, self.memory)

    def teardown(self) -> None:
        if hasattr(self, "sides"):
            for side in self.sides:
                side.close()

    def both(self, act: Any) -> Any:
        """Does it on both sides; the answers must be the same."""
        redis, memory = (act(side) for side in self.sides)
        assert redis == memory
        return redis

    def next_body(self) -> bytes:
        self.number += 1
        return b"body\n%d" % self.number

    @rule(
        ids=st.lists(IDS, min_size=1, max_size=4),
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from([0, 5, 9]),
        due=st.sampled_from([None, -HOUR, HOUR]),
        twice=st.booleans(),
    )
    def publish(self, ids: list[str], queue: str, priority: int, due: float | None, twice: bool) -> None:
        at = None if due is None else time.time() + due
        envelopes = [Envelope(id, self.next_body(), queue, priority, at) for id in ids]
        for side in self.sides:
            for _ in range(1 + twice):
                side.transport.publish(envelopes, batch=Batch("producer", self.number))

    @rule(queue=st.sampled_from(QUEUES), limit=st.integers(1, 4), lost=st.booleans())
    def fetch(self, queue: str, limit: int, lost: bool) -> None:
        def act(side: Side) -> list[tuple[Any, ...]]:
            taken = side.consumers[queue].fetch(limit, 0)
            if not lost:
                side.held[queue].update({delivery.id: delivery for delivery in taken})
            return [seen(delivery) for delivery in taken]

        self.both(act)

    def some_held(self) -> bool:
        """Does any worker hold anything?"""
        return any(self.memory.held.values())

    @precondition(some_held)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        queue = data.draw(st.sampled_from([queue for queue in QUEUES if self.memory.held[queue]]))
        ids = data.draw(st.lists(st.sampled_from(sorted(self.memory.held[queue])), min_size=1, unique=True))
        kinds = [data.draw(st.integers(0, 8)) for _ in ids]
        repeated = data.draw(st.booleans())
        bodies = [self.next_body() for _ in ids]
        now = time.time()

        def end(kind: int, delivery: Delivery, body: bytes) -> Any:
            claim = delivery.claim
            return (
                Ack(claim),
                Again(claim, Envelope(delivery.id, body, QUEUES[kind % 2], 5)),
                Again(claim, Envelope(delivery.id, body, queue, 0, now + HOUR)),
                Release(claim),
                Release(claim, counts="crash"),
                Release(claim, at=now + HOUR, counts="delivery"),
                Release(claim, at=now - HOUR),
                Dead(claim, f"reason {kind}\n"),
                Dead(claim, f"reason {kind}\n", crashed=True),
            )[kind]

        def act(side: Side) -> list[list[str]]:
            held = side.held[queue]
            ends = [end(kind, held[id], body) for id, kind, body in zip(ids, kinds, bodies, strict=True)]
            by_claim = {held[id].claim: id for id in ids}
            answers = [side.consumers[queue].settle(ends) for _ in range(1 + repeated)]
            for id in ids:
                del held[id]
            return [sorted(by_claim[claim] for claim in stale) for stale in answers]

        self.both(act)

    @rule(queue=st.sampled_from(QUEUES), part=st.integers(0, 3))
    def renew(self, queue: str, part: int) -> None:
        ids = sorted(self.memory.held[queue])[:part]
        for side in self.sides:
            side.consumers[queue].renew([side.held[queue][id].claim for id in ids])

    @rule(queue=st.sampled_from(QUEUES), forget=st.integers(0, 2))
    def reconcile(self, queue: str, forget: int) -> None:
        ids = sorted(self.memory.held[queue])[forget:]

        def act(side: Side) -> Any:
            held = side.held[queue]
            answer = side.consumers[queue].reconcile([held[id].claim for id in ids])
            lost = sorted(id for id in ids if held[id].claim in answer.lost)
            side.held[queue] = {delivery.id: delivery for delivery in answer.held}
            return lost, sorted(seen(delivery)[:6] for delivery in answer.held), answer.returned

        self.both(act)

    @rule(queue=st.sampled_from(QUEUES), limits=st.sampled_from([(3, 20), (1, 2), (2, 3)]))
    def die(self, queue: str, limits: tuple[int, int]) -> None:
        def act(side: Side) -> Any:
            dead = side.workers[queue].id
            side.replace(queue)
            (taken,) = [one for one in side.consumers[queue].takeover(*limits) if one.worker == dead]
            letters = [(one.id, one.queue, one.reason, one.deliveries, one.crashes, one.body) for one in taken.dead]
            return taken.released, sorted(letters)

        self.both(act)

    @rule(ids=st.lists(IDS, min_size=1, max_size=3, unique=True), until=st.sampled_from([-HOUR, HOUR]))
    def revoke(self, ids: list[str], until: float) -> None:
        def act(side: Side) -> Any:
            found = side.transport.revoke(ids, time.time() + until)
            return [(one.id, one.queue, one.place, one.body) for one in found]

        self.both(act)

    @rule(queue=st.sampled_from(QUEUES))
    def purge(self, queue: str) -> None:
        self.both(lambda side: side.transport.purge(queue))

    @rule(queue=st.sampled_from(QUEUES), paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        for side in self.sides:
            side.transport.pause(queue, paused)

    @rule(ids=st.lists(IDS, min_size=1, max_size=3, unique=True), drop=st.booleans())
    def replay_or_drop(self, ids: list[str], drop: bool) -> None:
        self.both(lambda side: side.transport.drop(ids) if drop else side.transport.replay(ids))

    @invariant()
    def both_show_the_same(self) -> None:
        if not hasattr(self, "sides"):
            return
        self.both(lambda side: side.transport.counts(QUEUES))
        self.both(lambda side: sorted((one.id, one.queue, one.body) for one in side.transport.scheduled()))
        self.both(lambda side: sorted((one.id, one.reason, one.body, one.crashes) for one in side.transport.dead()))
        for id in ("a", "x" * 60):
            self.both(lambda side, wanted=id: _place(side.transport.find(wanted)))

    @invariant()
    def the_keys_agree(self) -> None:
        if hasattr(self, "sides"):
            _check_keys(self.server)


def _place(found: Any) -> Any:
    return None if found is None else (found.queue, found.place, found.body)


def _parts(entry: bytes) -> tuple[bytes, bytes]:
    """Number and id of an entry."""
    number, mark, id = entry.partition(b"\xff")
    if mark:
        return number, mark + id
    number, _, id = entry.partition(b" ")
    return number, id


def _check_keys(server: RedisServer) -> None:
    """Each message is in exactly one place, and what is counted is so."""

    def read(*words: str) -> Any:
        return server.expect(words[0], f"{{engine}}:{words[1]}", *words[2:])

    def table(key: str) -> dict[bytes, bytes]:
        flat = read("HGETALL", key)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    messages = {id: value.split(b" ", 1)[0] for id, value in table("messages").items()}
    places: list[bytes] = []
    lines, void = table("lines"), table("void")
    for queue in QUEUES:
        for priority in "059":
            line = f"{priority}:{queue}"
            entries = [_parts(entry) for entry in read("LRANGE", f"ready:{line}", "0", "-1")]
            living = [id for number, id in entries if messages.get(id) == number]
            assert len(entries) - len(living) == int(void.get(line.encode(), 0))
            assert not entries or priority.encode() in lines[queue.encode()]
            places += living
            delayed = read("ZRANGE", f"delayed:{line}", "0", "-1", "WITHSCORES")
            assert read("ZSCORE", "due", line) == (delayed[1] if delayed else None)
            for entry in delayed[::2]:
                number, id = _parts(entry)
                assert messages[id] == number
                places.append(id)
    workers = read("HKEYS", "workers")
    assert len(workers) == len(QUEUES)
    for worker in workers:
        for name, claim in table(f"claims:{worker.decode()}").items():
            places.append(claim.partition(b"\n")[2] or name)
    assert sorted(places) == sorted(messages)
    assert set(table("tallies")) <= set(messages)
    letters = table("letters")
    assert set(letters) == set(table("bodies")) == set(read("ZRANGE", "dead", "0", "-1"))
    assert sum(map(int, table("deadcounts").values())) == len(letters)


def test_redis_does_what_the_reference_does(server: RedisServer) -> None:
    Protocol.server = server
    examples = int(os.environ.get("MODEL_EXAMPLES", "40"))
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Protocol,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
