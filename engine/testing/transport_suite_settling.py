"""How a delivery ends: acknowledged, retried, released, dead; once, and only by whoever holds it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.contract import (
    Ack,
    Again,
    CannotTell,
    Dead,
    Delivery,
    Envelope,
    QueueCounts,
    Release,
    ResultBackend,
    Transport,
)
from engine.testing.transport_suite_kit import DEADLINE, LONGEST_WAIT, QUEUE, Rig, TransportKit, Waiting, success


class SettlingTests(TransportKit):
    """A settlement has exactly its effect, exactly once."""

    def test_acknowledged_is_gone(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("one", "two")
        one, two = rig.take(consumer, 2)
        rig.settle(consumer, Ack(one.claim), Ack(two.claim))
        assert rig.is_empty(consumer)
        assert rig.transport.counts([QUEUE])[QUEUE] == QueueCounts()

    def test_an_empty_batch_settles_nothing(self, rig: Rig) -> None:
        assert list(rig.consumer().settle([])) == []

    def test_a_second_settlement_of_a_claim_is_stale(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("one")
        delivery = rig.take_one(consumer)
        rig.settle(consumer, Ack(delivery.claim))
        assert list(consumer.settle([Ack(delivery.claim)])) == [delivery.claim]
        assert list(consumer.settle([Release(delivery.claim)])) == [delivery.claim]
        assert rig.is_empty(consumer)

    def test_a_claim_settled_twice_in_one_batch_is_stale_the_second_time(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("one")
        claim = rig.take_one(consumer).claim
        assert list(consumer.settle([Release(claim, counts="delivery"), Release(claim, counts="delivery")])) == [claim]
        assert rig.take_one(consumer).deliveries == 2

    def test_stale_claims_do_not_keep_others_from_being_settled(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("one", "two")
        one, two = rig.take(consumer, 2)
        rig.settle(consumer, Ack(one.claim))
        batch = [Ack(b"nonsense"), Ack(one.claim), Ack(two.claim), Ack(b"99999999:1"), Ack(b"")]
        assert sorted(consumer.settle(batch)) == sorted([b"nonsense", one.claim, b"99999999:1", b""])
        assert rig.transport.counts([QUEUE])[QUEUE].claimed == 0

    def test_a_claim_of_an_earlier_delivery_is_stale(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("one")
        first = rig.take_one(consumer)
        rig.settle(consumer, Release(first.claim))
        second = rig.take_one(consumer)
        assert first.claim != second.claim
        assert list(consumer.settle([Ack(first.claim)])) == [first.claim]
        rig.settle(consumer, Ack(second.claim))

    def test_released_goes_back_to_the_front_in_its_old_order(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("a", "b", "c", "d")
        a, b, c = rig.take(consumer, 3)
        rig.settle(consumer, *(Release(delivery.claim) for delivery in (a, b, c)))
        assert rig.take_ids(consumer, 4) == ["a", "b", "c", "d"]

    @pytest.mark.parametrize(
        ("counts", "deliveries", "crashes"), [("nothing", 1, 0), ("delivery", 2, 0), ("crash", 2, 1)]
    )
    def test_a_release_counts_what_it_says(self, rig: Rig, counts: str, deliveries: int, crashes: int) -> None:
        consumer = rig.consumer()
        rig.publish("one", priority=5)
        rig.settle(consumer, Release(rig.take_one(consumer).claim, counts=counts))  # type: ignore[arg-type]
        again = rig.take_one(consumer)
        assert (again.deliveries, again.crashes, again.priority) == (deliveries, crashes, 5)

    def test_counts_add_up(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("one")
        for _ in range(3):
            rig.settle(consumer, Release(rig.take_one(consumer).claim, counts="crash"))
        rig.settle(consumer, Release(rig.take_one(consumer).claim, counts="delivery"))
        last = rig.take_one(consumer)
        assert (last.deliveries, last.crashes) == (5, 3)

    def test_released_for_later_comes_later_behind_the_others(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("a", "b")
        at = time.time() + 0.3
        rig.settle(consumer, Release(rig.take_one(consumer).claim, at=at, counts="delivery"))
        assert rig.take_ids(consumer, 1) == ["b"] or not rig.capabilities.delays
        later = rig.take_one(consumer)
        assert later.deliveries == 2
        assert time.time() >= at or not rig.capabilities.delays

    def test_released_for_a_past_time_goes_to_the_end(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("a", "b")
        rig.settle(consumer, Release(rig.take_one(consumer).claim, at=time.time() - 60))
        assert rig.take_ids(consumer, 2) == ["b", "a"]

    def test_a_release_wakes_another_consumer(self, rig: Rig) -> None:
        holder, waiting = rig.consumer(), rig.consumer(transport=rig.another())
        rig.publish("one")
        delivery = rig.take_one(holder)
        with rig.fetching(waiting) as fetch:
            rig.settle(holder, Release(delivery.claim))
            assert [d.id for d in fetch.result("a release")] == ["one"]

    def test_a_retry_replaces_the_message_and_starts_its_counts_anew(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("one", "two")
        rig.settle(consumer, Release(rig.take_one(consumer).claim, counts="crash"))
        rig.settle(consumer, Again(rig.take_one(consumer).claim, Envelope(id="one", body=b"second run", priority=0)))
        assert rig.take_ids(consumer, 1) == ["two"]
        again = rig.take_one(consumer)
        assert (again.id, again.body, again.deliveries, again.crashes) == ("one", b"second run", 1, 0)
        rig.settle(consumer, Ack(again.claim))
        assert rig.is_empty(consumer)

    def test_a_retry_may_be_delayed_and_change_queue_and_priority(self, rig: Rig) -> None:
        consumer = rig.consumer(QUEUE, "other")
        rig.publish("one")
        due = time.time() + 0.3
        again = Envelope(id="one", body=b"2", queue="other", priority=7, due=due)
        rig.settle(consumer, Again(rig.take_one(consumer).claim, again))
        delivery = rig.take_one(consumer)
        assert (delivery.queue, delivery.body) == ("other", b"2")
        assert delivery.priority == 7 or not rig.capabilities.prioritises
        assert time.time() >= due or not rig.capabilities.delays

    def test_a_retried_message_is_in_one_place_at_every_moment(self, rig: Rig) -> None:
        if not (rig.capabilities.settles_retry_atomically and rig.capabilities.finds):
            pytest.skip("the end of a delivery and its retry are two steps, or cannot be seen")
        consumer, observer = rig.consumer("even", "odd"), rig.another()
        rig.transport.publish([Envelope(id="one", queue="even", body=b"even")])
        done = threading.Event()
        with ThreadPoolExecutor(1) as lane:
            watching = lane.submit(_watch, observer, done)
            try:
                for n in range(1, 101):
                    delivery = rig.take_one(consumer)
                    queue = ("even", "odd")[n % 2]
                    rig.settle(consumer, Again(delivery.claim, Envelope(id="one", queue=queue, body=queue.encode())))
            finally:
                done.set()
            seen = watching.result(DEADLINE)
        rig.agree("settles_retry_atomically", not seen, seen)

    def test_dead_is_kept_with_its_reason(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("one")
        rig.settle(consumer, Dead(rig.take_one(consumer).claim, 'malformed: "x" \n ü'))
        assert rig.is_empty(consumer)
        (letter,) = rig.transport.dead()
        assert (letter.id, letter.queue, letter.reason) == ("one", QUEUE, 'malformed: "x" \n ü')
        assert (letter.body, letter.deliveries, letter.crashes) == (b'{"id": "one"}', 1, 0)

    def test_dead_counts_the_crash_that_ended_its_last_run(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("crashed")
        rig.settle(consumer, Release(rig.take_one(consumer).claim, counts="crash"))
        rig.publish("raised")
        crashed, raised = rig.take(consumer, 2)
        rig.settle(consumer, Dead(crashed.claim, "crash limit", crashed=True), Dead(raised.claim, "it raised"))
        letters = {letter.id: (letter.deliveries, letter.crashes) for letter in rig.transport.dead()}
        assert letters == {"crashed": (2, 2), "raised": (1, 0)}

    def test_a_dead_letter_has_the_deliveries_that_there_were(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("one")
        rig.settle(consumer, Release(rig.take_one(consumer).claim, counts="delivery"))
        last = rig.take_one(consumer)
        rig.settle(consumer, Dead(last.claim, "reason"))
        letter = rig.transport.dead_letter("one")
        assert letter is not None
        assert letter.deliveries == last.deliveries == 2, "a dead letter's deliveries are those of its last Delivery"

    def test_a_mixed_batch_settles_each_as_it_says(self, rig: Rig) -> None:
        consumer = rig.consumer()
        ids = [f"m{n}" for n in range(40)]
        rig.publish(*ids)
        settlements = [_mixed(n, delivery) for n, delivery in enumerate(rig.take(consumer, 40))]
        rig.settle(consumer, *settlements)
        counts = rig.transport.counts([QUEUE])[QUEUE]
        assert (counts.ready, counts.claimed, counts.dead) == (20, 0, 10)
        back = {delivery.id: delivery for delivery in rig.take(consumer, 20)}
        assert all(delivery.deliveries == 2 for id, delivery in back.items() if int(id[1:]) % 4 == 2)
        assert all(delivery.body == b"again" for id, delivery in back.items() if int(id[1:]) % 4 == 1)

    def test_records_are_stored_with_the_settlement_or_the_flag_says_no(
        self, rig: Rig, results: ResultBackend | None
    ) -> None:
        if results is None:
            assert not rig.capabilities.stores_results, "a transport that stores results needs the fixture `results`"
            pytest.skip("no result backend at the same server")
        rig.agree("stores_results", rig.transport.share_results(results))
        consumer = rig.consumer()
        rig.publish("one", "two", "three")
        one, two, three = rig.take(consumer, 3)
        rig.settle(consumer, Ack(three.claim))
        stale = consumer.settle(
            [Ack(one.claim, success("one")), Again(two.claim, Envelope(id="two", body=b"2"), success("two"))]
        )
        assert list(stale) == []
        assert list(consumer.settle([Ack(three.claim, success("three"))])) == [three.claim]
        rig.agree("stores_results", set(results.get(["one", "two", "three"])) == {"one", "two"})

    def test_no_results_are_stored_by_who_was_not_told_to(self, rig: Rig, results: ResultBackend | None) -> None:
        consumer = rig.consumer()
        rig.publish("one")
        rig.settle(consumer, Ack(rig.take_one(consumer).claim, success("one")))
        assert results is None or not results.get(["one"])

    def test_only_the_backend_of_the_same_server_is_shared(self, rig: Rig) -> None:
        assert rig.transport.share_results(object()) is False

    def test_a_record_that_was_settled_wakes_who_waits(self, rig: Rig, results: ResultBackend | None) -> None:
        if results is None or not rig.transport.share_results(results):
            pytest.skip("no result backend at the same server")
        consumer = rig.consumer()
        rig.publish("one")
        delivery = rig.take_one(consumer)
        with ThreadPoolExecutor(1) as client:
            waiting = Waiting(client, lambda: list(results.wait(["one"], LONGEST_WAIT)), "wait() for a result")
            rig.settle(consumer, Ack(delivery.claim, success("one")))
            assert [record.id for record in waiting.result("the settlement that has it")] == ["one"]


def _watch(observer: Transport, done: threading.Event) -> str:
    """Looks at a message that is retried, and returns what it saw of a half-done retry."""
    looks = 0
    while not done.is_set() or not looks:
        looks += 1
        found = observer.find("one")
        assert not isinstance(found, CannotTell)
        if found is None:
            return "find() saw the message nowhere between the end of its delivery and its retry"
        if found.queue not in ("even", "odd") or (found.body and found.body.decode() != found.queue):
            return f"find() saw a retry half done: the body {found.body!r} in the queue {found.queue!r}"
    return ""


def _mixed(n: int, delivery: Delivery) -> Ack | Again | Release | Dead:
    kinds = (
        Ack(delivery.claim),
        Again(delivery.claim, Envelope(id=delivery.id, body=b"again")),
        Release(delivery.claim, counts="delivery"),
        Dead(delivery.claim, f"reason {n}"),
    )
    return kinds[n % 4]
