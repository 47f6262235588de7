"""The RabbitMQ transport keeps to the contract, as far as RabbitMQ can."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from rabbit_server import shared

from engine.contract import Dead, Envelope, QueueCounts, Release
from engine.testing.faults.rabbitmq import Rabbit
from engine.testing.results_suite import ResultsSuite
from engine.testing.transport_suite import TransportSuite
from engine.testing.transport_suite_kit import QUEUE, Rig, wait_for
from engine.testing.transport_suite_owners import _note
from engine_rabbitmq import RabbitResults, RabbitTransport


@pytest.fixture
def server() -> Rabbit:
    """The node that the tests share."""
    return shared()


@pytest.fixture
def url(server: Rabbit) -> str:
    """An empty virtual host."""
    return server.url_of(server.virtual_host())


class TestRabbitTransport(TransportSuite):
    """The broker, with quorum queues."""

    @pytest.fixture
    def transport(self, url: str) -> Iterator[RabbitTransport]:
        """The transport under test."""
        transport = RabbitTransport(url, options=self.options)
        yield transport
        transport.close()

    @pytest.fixture
    def unreachable(self) -> Iterator[RabbitTransport]:
        """A port that nobody listens on."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            transport = RabbitTransport(f"amqp://127.0.0.1:{taken.getsockname()[1]}/", options=self.options)
            yield transport
            transport.close()

    # Where RabbitMQ cannot do what the suite asks for, or does it otherwise: what holds instead.

    def test_counts_tell_the_places(self, rig: Rig) -> None:
        """Delayed messages are not counted: no server tells how many of a ladder's belong to one queue."""
        consumer = rig.consumer()
        rig.publish("a", "b", "c", "d")
        rig.publish("later", due=time.time() + 3600)
        dead, _claimed = rig.take(consumer, 2)
        rig.settle(consumer, Dead(dead.claim, "reason"))
        expected = {QUEUE: QueueCounts(ready=2, delayed=0, claimed=1, dead=1)}
        wait_for(lambda: rig.transport.counts([QUEUE]) == expected, "the counts: what is pushed here is on its way")

    def test_a_dead_id_may_be_sent_and_die_again(self, rig: Rig) -> None:
        """Both lie there, as no server looks for an id; the latest is listed, and replay and drop take both."""
        consumer = rig.consumer()
        for reason in ("first", "second"):
            rig.publish("a")
            rig.settle(consumer, Dead(rig.take_one(consumer).claim, reason))
        assert [(letter.id, letter.reason) for letter in rig.transport.dead()] == [("a", "second")]
        assert rig.transport.replay(["a"]) == 1
        assert rig.transport.counts([QUEUE])[QUEUE].dead == 0
        assert rig.ack_all(consumer) == ["a"]

    def test_purge_deletes_ready_and_delayed_but_not_claimed(self, rig: Rig) -> None:
        """Delayed messages are dropped when they are due, and not counted."""
        consumer = rig.consumer()
        rig.publish("held", "a", "b")
        held = rig.take_one(consumer)
        rig.publish("later", due=time.time() + 0.2)
        rig.publish("other", queue="other")
        assert rig.transport.purge(QUEUE) == 2
        assert rig.is_empty(consumer)
        rig.settle(consumer, Release(held.claim))
        assert rig.take_ids(consumer, 1) == ["held"]
        assert rig.transport.counts(["other"])["other"].ready == 1
        rig.publish("a", due=time.time() + 0.3)
        assert rig.take_ids(consumer, 1) == ["a"]

    def test_a_killed_worker_on_this_host_is_taken_over_at_once(self, rig: Rig) -> None:
        """The server gives back what it held, and cannot know what had started: no crash is counted, and whoever gets
        it looks whether it ran."""
        rig.publish("started", "fetched")
        killed = rig.run("claim", "2", "1")
        killed.until("ready")
        consumer = rig.consumer()
        assert rig.is_empty(consumer)
        killed.kill()
        back = {one.id: (one.deliveries, one.crashes, one.gate) for one in rig.take(consumer, 2)}
        assert back == {"started": (2, 0, True), "fetched": (2, 0, True)}

    def test_the_delivery_limit_makes_a_dead_letter(self, rig: Rig) -> None:
        rig.publish("fetched")
        for _ in range(3):
            killed = rig.run("claim", "1", "0")
            killed.until("ready")
            killed.kill()
        consumer = rig.consumer()
        consumer.takeover(3, 3)
        assert wait_for(lambda: list(consumer.fetch(1, 0.1)) or consumer.takeover(3, 3), "the dead letter") is not None
        (letter,) = rig.transport.dead()
        assert (letter.id, letter.deliveries) == ("fetched", 4)
        assert letter.reason.startswith("delivery limit")
        assert rig.is_empty(consumer)

    @pytest.mark.parametrize("round", range(4))
    def test_a_process_killed_between_any_two_steps_loses_nothing(self, rig: Rig, round: int) -> None:
        """A retry is there twice when its worker dies between publishing it and acknowledging the run before."""
        ids = {f"m{n}" for n in range(60)}
        retried = {id for id in ids if int(id[1:]) % 3 == 0}
        for id in sorted(ids):
            rig.transport.publish([Envelope(id=id, body=b"again" if id in retried else b"once")])
        settled: set[str] = set()
        in_flight: set[str] = set()
        for kill in range(3):
            worker = rig.run("work")
            worker.until("working")
            said = [worker.hear() for _ in range(1 + (3 * round + kill) % 5)]
            worker.kill()
            in_flight |= _note([*said, *worker.rest()], settled)
        consumer = rig.consumer()
        left: list[str] = []
        wait_for(
            lambda: left.extend(rig.ack_all(consumer)) or ids - settled - in_flight <= set(left), "all that is left"
        )
        once = [id for id in left if id not in retried]
        assert len(once) == len(set(once)), "a message exists twice"
        assert not settled & set(left), "a message came back after it was settled"

    # Claims end with the connection: nothing is taken over, whatever lock or heartbeat says.
    test_what_is_taken_over_goes_back_to_where_it_stood = None
    test_one_of_two_that_take_over_at_once_tells_of_it = None
    test_a_run_that_was_given_back_has_not_started = None
    test_a_worker_whose_lock_is_free_is_taken_over = None
    test_a_worker_of_an_earlier_boot_is_taken_over = None
    test_a_missing_lock_file_proves_nothing_and_a_silent_heart_does = None
    test_a_worker_that_was_taken_over_may_come_back = None
    test_the_crash_limit_makes_a_dead_letter = None
    test_a_takeover_wakes_who_waits = None


class TestRabbitResults(ResultsSuite):
    """The results, in streams."""

    @pytest.fixture
    def results(self, url: str) -> Iterator[RabbitResults]:
        """The backend under test."""
        results = RabbitResults(url, expires=60, options={})
        yield results
        results.close()
