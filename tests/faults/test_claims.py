"""The claim protocol against a model of itself: fetch, finish, retry, take over, with answers that are lost, sends that
are repeated, workers that crash, and workers that were taken over and go on all the same.

After every step each message is in exactly one place, the one that the model says, and each run succeeds at most once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults_rig import made
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from engine.contract import Ack, Again, Batch, Consumer, Dead, Envelope, Release, Settlement, Transport, Worker
from engine.contract.transport import Found
from engine.testing.faults.brokers import Redis
from engine_memory import MemoryTransport
from engine_redis import RedisTransport
from engine_sqlite import SqliteTransport

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "25"))
IDS = [f"id{number}" for number in range(6)]
QUEUES = ("a", "b")
HOUR = 3600.0
KINDS = ("ack", "again", "later", "dead", "release", "crash")
places = {"ack": None, "again": "ready", "later": "delayed", "dead": "dead", "release": "ready", "crash": "ready"}
few = st.lists(st.sampled_from(IDS), min_size=1, max_size=4, unique=True)
queues = st.sampled_from(QUEUES)


class Hand:
    """A worker's process: what it believes to hold. Its claims may be gone without its knowing."""

    def __init__(self, consumer: Consumer, worker: Worker) -> None:
        self.consumer = consumer
        self.worker = worker
        self.held: dict[bytes, str] = {}


class Claims(RuleBasedStateMachine):
    """One transport and the model of it. ``open`` makes an empty one."""

    open: Callable[[], Transport]

    @initialize()
    def begin(self) -> None:
        """Two workers, each for a queue of its own."""
        self.transport = type(self).open()
        self.place: dict[str, str | None] = dict.fromkeys(IDS)
        self.queue: dict[str, str] = {}
        self.claims: dict[str, tuple[bytes, str]] = {}
        """What the broker knows: id -> (claim, worker)."""
        self.succeeded: dict[str, int] = {}
        self.number = 0
        self.ghosts: list[Hand] = []
        self.hands = {queue: self.born(queue) for queue in QUEUES}

    def teardown(self) -> None:
        """Closes what is open."""
        if hasattr(self, "transport"):
            for hand in self.hands.values():
                hand.consumer.close()
            self.transport.close()

    def born(self, queue: str) -> Hand:
        """Returns a worker that can tell that the one before it is dead: the host was booted in between."""
        worker = Worker(f"w-{os.urandom(6).hex()}", f"host-{queue}", f"boot-{os.urandom(4).hex()}", "/none")
        hand = Hand(self.transport.consume([queue], worker), worker)
        hand.consumer.reconcile(())
        hand.consumer.renew(())
        return hand

    def goes(self, id: str, place: str | None) -> None:
        """The model's only way to move a message."""
        self.place[id] = place
        if place != "claimed":
            self.claims.pop(id, None)

    @rule(ids=few, queue=queues, times=st.integers(1, 3))
    def send(self, ids: list[str], queue: str, times: int) -> None:
        """A batch, repeated as one whose answers were lost. What is alive is dropped."""
        ids = [id for id in ids if self.place[id] != "dead"]
        self.number += 1
        envelopes = [Envelope(id, id.encode(), queue) for id in ids]
        for _ in range(times):
            self.transport.publish(envelopes, batch=Batch("sender", self.number))
        for id in ids:
            if self.place[id] is None:
                self.goes(id, "ready")
                self.queue[id] = queue
                self.succeeded[id] = 0

    @rule(queue=queues, limit=st.integers(1, 4), lost=st.booleans())
    def fetch(self, queue: str, limit: int, lost: bool) -> None:
        """``lost``: it was done, but the answer never came."""
        hand = self.hands[queue]
        ready = [id for id in IDS if self.place[id] == "ready" and self.queue[id] == queue]
        deliveries = hand.consumer.fetch(limit, 0)
        assert len(deliveries) == min(limit, len(ready))
        for delivery in deliveries:
            assert delivery.id in ready, "handed out twice, or from nowhere"
            self.goes(delivery.id, "claimed")
            self.claims[delivery.id] = (delivery.claim, hand.worker.id)
            if not lost:
                hand.held[delivery.claim] = delivery.id

    @rule(queue=queues, count=st.integers(1, 4), kinds=st.lists(st.sampled_from(KINDS), min_size=4, max_size=4))
    def finish(self, queue: str, count: int, kinds: list[str]) -> None:
        """Some of what it holds."""
        self.settle(self.hands[queue], count, kinds, lost=False)

    @rule(queue=queues, count=st.integers(1, 4), kinds=st.lists(st.sampled_from(KINDS), min_size=4, max_size=4))
    def finish_unheard(self, queue: str, count: int, kinds: list[str]) -> None:
        """It was done, but the answer never came: all of it is sent again, and refused."""
        hand = self.hands[queue]
        held = dict(hand.held)
        self.settle(hand, count, kinds, lost=True)
        assert hand.held == held
        self.settle(hand, count, kinds, lost=False)

    @rule(data=st.data())
    def a_ghost_goes_on(self, data: st.DataObject) -> None:
        """A worker that was taken for dead, and taken over, reports what it ran: nothing of it counts."""
        if self.ghosts:
            ghost = data.draw(st.sampled_from(self.ghosts))
            settlements = [Ack(claim) for claim in ghost.held]
            assert sorted(ghost.consumer.settle(settlements)) == sorted(ghost.held)

    def settle(self, hand: Hand, count: int, kinds: list[str], *, lost: bool) -> None:
        """Settles, and moves the model along."""
        picked = list(zip(list(hand.held)[:count], kinds, strict=False))
        stale = {claim for claim, _ in picked if self.claims.get(hand.held[claim], (b"", ""))[0] != claim}
        settlements = [self.settlement(claim, hand.held[claim], kind) for claim, kind in picked]
        assert set(hand.consumer.settle(settlements)) == stale
        for claim, kind in picked:
            id = hand.held[claim]
            if claim not in stale:
                self.goes(id, places[kind])
                self.succeeded[id] += kind == "ack"
                assert self.succeeded[id] <= 1
            if not lost:
                del hand.held[claim]

    def settlement(self, claim: bytes, id: str, kind: str) -> Settlement:
        """Returns the settlement of that kind."""
        queue = self.queue[id]
        made: dict[str, Settlement] = {
            "ack": Ack(claim),
            "again": Again(claim, Envelope(id, b"again", queue)),
            "later": Again(claim, Envelope(id, b"later", queue, due=time.time() + HOUR)),
            "dead": Dead(claim, "because"),
            "release": Release(claim),
            "crash": Release(claim, counts="crash"),
        }
        return made[kind]

    @rule(queue=queues)
    def reconcile(self, queue: str) -> None:
        """After a lost connection: what is claimed and not held goes back, what is held and gone is told."""
        hand = self.hands[queue]
        mine = {id: claim for id, (claim, worker) in self.claims.items() if worker == hand.worker.id}
        answer = hand.consumer.reconcile(list(hand.held))
        assert set(answer.lost) == {claim for claim in hand.held if claim not in mine.values()}
        returned = [id for id, claim in mine.items() if claim not in hand.held]
        assert answer.returned == len(returned)
        for id in returned:
            self.goes(id, "ready")
        hand.held = {claim: id for claim, id in hand.held.items() if claim in mine.values()}

    @rule(queue=queues)
    def crash(self, queue: str) -> None:
        """The next worker takes over. The old one is not gone, it only seems so."""
        dead = self.hands[queue]
        hand = self.hands[queue] = self.born(queue)
        taken = [one for one in hand.consumer.takeover(1000, 1000) if one.worker == dead.worker.id]
        mine = [id for id, (_, worker) in self.claims.items() if worker == dead.worker.id]
        assert sum(one.released for one in taken) == len(mine)
        for id in mine:
            self.goes(id, "ready")
        if dead.held:
            self.ghosts.append(dead)

    @rule(queue=queues)
    def renew(self, queue: str) -> None:
        """A beat, with all that it holds begun."""
        self.hands[queue].consumer.renew(list(self.hands[queue].held))

    @rule(ids=few, replay=st.booleans())
    def bury_or_wake(self, ids: list[str], replay: bool) -> None:
        """Dead letters are put back, or dropped."""
        dead = [id for id in ids if self.place[id] == "dead"]
        assert (self.transport.replay(ids) if replay else self.transport.drop(ids)) == len(dead)
        for id in dead:
            self.goes(id, "ready" if replay else None)

    @invariant()
    def each_is_in_exactly_one_place(self) -> None:
        """By its id, and by the numbers."""
        if not hasattr(self, "transport"):
            return
        for id in IDS:
            found = self.transport.find(id)
            assert (found.place if isinstance(found, Found) else None) == self.place[id], id
        counts = self.transport.counts(QUEUES).values()
        for place in ("ready", "delayed", "claimed", "dead"):
            assert sum(getattr(one, place) for one in counts) == list(self.place.values()).count(place)


def _memory(folder: Path) -> Callable[[], Transport]:
    return lambda: MemoryTransport(f"memory://{os.urandom(6).hex()}", options={})


def _sqlite(folder: Path) -> Callable[[], Transport]:
    def open_one() -> Transport:
        for old in folder.glob("model-*"):
            shutil.rmtree(old)
        return SqliteTransport(f"sqlite:///{tempfile.mkdtemp(prefix='model-', dir=folder)}/x.db", options={})

    return open_one


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Redis]:
    """A private server."""
    server = made("redis", tmp_path)
    assert isinstance(server, Redis)
    server.start()
    yield server
    server.close()


def _check(open_one: Callable[[], Transport]) -> None:
    machine: Any = type("Machine", (Claims,), {"open": staticmethod(open_one)})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("opened", [_memory, _sqlite], ids=["memory", "sqlite"])
def test_every_message_is_in_one_place_and_succeeds_once(
    tmp_path: Path, opened: Callable[[Path], Callable[[], Transport]]
) -> None:
    _check(opened(tmp_path))


def test_every_message_is_in_one_place_and_succeeds_once_on_redis(redis_server: Redis) -> None:
    def open_one() -> Transport:
        redis_server.ask(b"FLUSHALL\r\n")
        return RedisTransport(redis_server.url, options={})

    _check(open_one)
