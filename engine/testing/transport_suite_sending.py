"""From publish to fetch: order, priority, turns, delay, repetition, waking."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import pytest

from engine.contract import Ack, Batch, Consumer, Delivery, Envelope, Release
from engine.testing.transport_suite_kit import QUEUE, SOON, Rig, TransportKit, wait_for

LARGE = 8 * 1024 * 1024


class SendingTests(TransportKit):
    """What is sent arrives: once, whole, in order, when it is due."""

    def test_a_message_arrives_as_it_was_sent(self, rig: Rig) -> None:
        body = bytes(range(256)) + "ünïcode \U0001f600".encode()
        rig.transport.publish([Envelope(id="one", body=body, priority=3)])
        delivery = rig.take_one(rig.consumer())
        assert (delivery.id, delivery.queue, delivery.body) == ("one", QUEUE, body)
        assert (delivery.deliveries, delivery.crashes, delivery.revoked) == (1, 0, False)
        assert 0 < len(delivery.claim) <= 64

    def test_messages_of_one_queue_arrive_in_the_order_sent(self, rig: Rig) -> None:
        ids = [f"m{n}" for n in range(300)]
        rig.publish(*ids[:200])
        rig.publish(*ids[200:])
        assert rig.take_ids(rig.consumer(), 300) == ids

    def test_a_fetch_takes_no_more_than_its_limit(self, rig: Rig) -> None:
        rig.publish("a", "b", "c")
        consumer = rig.consumer()
        assert [delivery.id for delivery in consumer.fetch(2, 1)] == ["a", "b"]
        assert [delivery.id for delivery in consumer.fetch(2, 1)] == ["c"]

    def test_a_higher_priority_goes_first_across_queues_or_the_flag_says_no(self, rig: Rig) -> None:
        rig.publish("low", queue="a")
        rig.publish("high", queue="b", priority=9)
        rig.publish("middle", queue="a", priority=4)
        ids = rig.take_ids(rig.consumer("a", "b"), 3)
        rig.agree("prioritises", ids == ["high", "middle", "low"])

    def test_queues_take_turns(self, rig: Rig) -> None:
        for queue in ("a", "b", "c"):
            rig.publish(*(f"{queue}{n}" for n in range(20)), queue=queue)
        taken = rig.take(rig.consumer("a", "b", "c"), 12)
        assert sorted(delivery.queue for delivery in taken) == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
        for queue in ("a", "b", "c"):
            assert [d.id for d in taken if d.queue == queue] == [f"{queue}{n}" for n in range(4)]

    def test_queues_take_turns_when_one_is_fetched_at_a_time(self, rig: Rig) -> None:
        for queue in ("a", "b"):
            rig.publish(*(f"{queue}{n}" for n in range(5)), queue=queue)
        consumer = rig.consumer("a", "b")
        queues = [rig.take_one(consumer).queue for _ in range(6)]
        assert sorted(queues) == ["a", "a", "a", "b", "b", "b"]
        assert all(first != second for first, second in pairwise(queues))

    def test_a_full_queue_does_not_hide_a_short_one(self, rig: Rig) -> None:
        rig.publish(*(f"full{n}" for n in range(500)), queue="full")
        rig.publish("short", queue="short")
        assert "short" in rig.take_ids(rig.consumer("full", "short"), 10)

    def test_many_queues_are_emptied(self, rig: Rig) -> None:
        queues = [f"q{n}" for n in range(60)]
        for queue in queues:
            rig.publish(f"{queue}-first", f"{queue}-second", queue=queue)
        taken = rig.take_ids(rig.consumer(*queues), 120)
        assert sorted(taken[:60]) == sorted(f"{queue}-first" for queue in queues)

    def test_a_consumer_fetches_from_its_queues_only(self, rig: Rig) -> None:
        rig.publish("theirs", queue="other")
        rig.publish("mine", queue="mine")
        consumer = rig.consumer("mine")
        assert rig.take_ids(consumer, 1) == ["mine"]
        assert rig.is_empty(consumer)

    def test_a_queue_may_have_any_name(self, rig: Rig) -> None:
        name = 'a "quoted", [odd] näme: *?'
        rig.publish("one", queue=name)
        assert rig.take_one(rig.consumer(name)).queue == name

    def test_a_delayed_message_is_held_until_it_is_due_or_the_flag_says_no(self, rig: Rig) -> None:
        consumer = rig.consumer()
        due = time.time() + 0.4
        rig.publish("later", due=due)
        rig.publish("now")
        assert rig.take_ids(consumer, 1) == ["now"] or not rig.capabilities.delays
        rig.take_one(consumer)
        rig.agree("delays", time.time() >= due)

    def test_a_waiting_fetch_wakes_for_a_due_time(self, rig: Rig) -> None:
        if not rig.capabilities.delays:
            pytest.skip("the broker does not delay")
        consumer = rig.consumer()
        rig.publish("soon", due=time.time() + 0.2)
        assert [delivery.id for delivery in consumer.fetch(1, 30)] == ["soon"]

    def test_delayed_messages_become_ready_soonest_first(self, rig: Rig) -> None:
        if not rig.capabilities.delays:
            pytest.skip("the broker does not delay")
        now = time.time()
        for id, after in (("third", 0.3), ("first", 0.1), ("second", 0.2)):
            rig.publish(id, due=now + after)
        consumer = rig.consumer()
        assert [rig.take_one(consumer).id for _ in range(3)] == ["first", "second", "third"]

    def test_a_due_time_in_the_past_is_now(self, rig: Rig) -> None:
        rig.publish("past", due=time.time() - 3600)
        assert rig.take_ids(rig.consumer(), 1) == ["past"]

    def test_a_large_message_arrives_whole(self, rig: Rig) -> None:
        body = bytes(range(256)) * (LARGE // 256)
        rig.transport.publish([Envelope(id="large", body=body), Envelope(id="small", body=b"{}")])
        consumer = rig.consumer()
        large, small = rig.take(consumer, 2)
        assert large.body == body
        assert small.body == b"{}"
        rig.settle(consumer, Release(large.claim), Ack(small.claim))
        assert rig.take_one(consumer).body == body

    def test_a_batch_repeated_under_its_number_is_published_once_or_the_flag_says_no(self, rig: Rig) -> None:
        consumer = rig.consumer()
        envelopes = [Envelope(id=f"m{n}", body=b"{}", replayed=bool(n)) for n in range(3)]
        batch = Batch("producer", 7)
        rig.transport.publish(envelopes, batch=batch)
        assert sorted(rig.ack_all(consumer)) == ["m0", "m1", "m2"]
        rig.transport.publish(envelopes, batch=batch)
        rig.agree("publishes_once", rig.ack_all(consumer) == [])

    def test_a_batch_with_an_earlier_number_is_a_repetition(self, rig: Rig) -> None:
        if not rig.capabilities.publishes_once:
            pytest.skip("the broker does not remember batches")
        consumer = rig.consumer()
        arrived = []
        for position, number in enumerate((5, 7, 6, 5, 8)):
            rig.transport.publish([Envelope(id=f"m{position}", body=b"{}")], batch=Batch("producer", number))
            arrived += [number] * len(rig.ack_all(consumer))
        assert arrived == [5, 7, 8], "a number that is not greater than the producer's last is a repetition"

    def test_the_next_batch_of_a_producer_is_published(self, rig: Rig) -> None:
        consumer = rig.consumer()
        for number in (1, 2, 5):
            rig.transport.publish([Envelope(id=f"m{number}", body=b"{}")], batch=Batch("producer", number))
        rig.transport.publish([Envelope(id="theirs", body=b"{}")], batch=Batch("another", 1))
        assert sorted(rig.ack_all(consumer)) == ["m1", "m2", "m5", "theirs"]

    def test_a_second_message_of_an_id_that_is_alive_is_dropped(self, rig: Rig) -> None:
        if not rig.capabilities.finds:
            pytest.skip("a broker that cannot look up an id cannot see that it is alive")
        consumer = rig.consumer()
        rig.publish("one", "one")
        rig.publish("one")
        delivery = rig.take_one(consumer)
        rig.publish("one")
        assert rig.is_empty(consumer)
        rig.settle(consumer, Ack(delivery.claim))
        rig.publish("one")
        assert rig.take_ids(consumer, 1) == ["one"]

    def test_an_idle_consumer_wakes_for_a_message(self, rig: Rig) -> None:
        consumer = rig.consumer()
        with rig.fetching(consumer) as fetch:
            rig.publish("bell", transport=rig.another())
            assert [delivery.id for delivery in fetch.result("a publish")] == ["bell"]

    def test_an_idle_consumer_wakes_for_every_one_of_many_messages(self, rig: Rig) -> None:
        consumer = rig.consumer()
        sender = rig.another()
        for n in range(30):
            with rig.fetching(consumer) as fetch:
                rig.publish(f"m{n}", transport=sender)
                (delivery,) = fetch.result("a publish")
            rig.settle(consumer, Ack(delivery.claim))

    def test_wake_ends_a_waiting_fetch(self, rig: Rig) -> None:
        consumer = rig.consumer()
        with rig.fetching(consumer) as fetch:
            wait_for(lambda: consumer.wake() or fetch.is_over, "a waiting fetch to return after wake()", SOON)
            assert list(fetch.result("wake()")) == []

    def test_wake_ends_a_fetch_that_takes_nothing(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("one")
        with rig.fetching(consumer, limit=0) as fetch:
            wait_for(lambda: consumer.wake() or fetch.is_over, "a waiting fetch(0, ...) to return after wake()", SOON)
            assert list(fetch.result("wake()")) == []
        assert rig.take_ids(consumer, 1) == ["one"]

    def test_a_fetch_with_limit_0_takes_nothing(self, rig: Rig) -> None:
        rig.publish("one")
        consumer = rig.consumer()
        assert list(consumer.fetch(0, 0.05)) == []
        assert rig.take_ids(consumer, 1) == ["one"]

    def test_a_fetch_with_nothing_there_ends_at_its_timeout(self, rig: Rig) -> None:
        consumer = rig.consumer()
        before = time.monotonic()
        assert list(consumer.fetch(10, 0.2)) == []
        assert time.monotonic() - before >= 0.19

    def test_commands_reach_every_worker_that_is_up_or_the_flag_says_no(self, rig: Rig) -> None:
        first, second = rig.consumer(), rig.consumer("other", transport=rig.another())
        rig.transport.broadcast(b"revoke")
        if not rig.capabilities.broadcasts:
            rig.agree("broadcasts", _hears(first) and _hears(second))
            return
        rig.transport.broadcast(b"x" * 64 * 1024)
        for consumer in (first, second):
            heard: list[bytes] = []
            wait_for(
                lambda c=consumer, h=heard: h.extend(c.commands()) or len(h) == 2,  # type: ignore[misc]
                "a worker to hear two commands: mend that, or say Capabilities(broadcasts=False)",
            )
            assert heard == [b"revoke", b"x" * 64 * 1024]
            assert list(consumer.commands()) == []

    def test_a_worker_does_not_hear_commands_from_before_it_came(self, rig: Rig) -> None:
        if not rig.capabilities.broadcasts:
            pytest.skip("commands do not reach every worker")
        rig.transport.broadcast(b"old")
        consumer = rig.consumer()
        rig.transport.broadcast(b"new")
        heard: list[bytes] = []
        wait_for(lambda: heard.extend(consumer.commands()) or heard, "a command")  # type: ignore[func-returns-value]
        assert heard == [b"new"]

    def test_a_waiting_fetch_returns_early_for_a_command(self, rig: Rig) -> None:
        if not rig.capabilities.broadcasts:
            pytest.skip("commands do not reach every worker")
        consumer = rig.consumer()
        with rig.fetching(consumer) as fetch:
            rig.another().broadcast(b"now")
            assert list(fetch.result("a broadcast")) == []
        assert list(consumer.commands()) == [b"now"]

    def test_what_was_published_survives_its_publisher_or_the_flag_says_no(self, rig: Rig) -> None:
        other = rig.run("publish", "one", "two")
        other.until("published")
        other.kill()
        taken = rig.ack_all(rig.consumer())
        rig.agree("durable", sorted(taken) == ["one", "two"])

    def test_other_processes_see_what_is_there_or_the_flag_says_no(self, rig: Rig) -> None:
        rig.publish("one")
        seen = rig.run("look").hear()
        rig.agree("in_process", seen == "0")
        assert not (rig.capabilities.in_process and rig.capabilities.other_hosts)

    def test_two_consumers_never_share_a_message(self, rig: Rig) -> None:
        ids = [f"m{n}" for n in range(400)]
        rig.publish(*ids)
        consumers = [rig.consumer(), rig.consumer(transport=rig.another())]
        taken: list[str] = []
        lock = threading.Lock()

        def drain(consumer: Consumer) -> None:
            while deliveries := consumer.fetch(7, 0.1):
                with lock:
                    taken.extend(delivery.id for delivery in deliveries)
                rig.settle(consumer, *(Ack(delivery.claim) for delivery in deliveries))

        threads = [threading.Thread(target=drain, args=(consumer,)) for consumer in consumers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == sorted(ids)

    def test_publishing_fetching_and_settling_go_on_at_once(self, rig: Rig) -> None:
        consumer = rig.consumer()
        ids = [f"m{n}" for n in range(500)]
        taken: list[Delivery] = []
        with ThreadPoolExecutor(2) as lanes:
            sending = lanes.submit(lambda: [rig.publish(*ids[n : n + 5]) for n in range(0, 500, 5)])
            settled: list[Future[None]] = []
            while len(taken) < 500:
                deliveries = consumer.fetch(20, 5)
                assert deliveries, "a fetch timed out though messages are on their way"
                taken.extend(deliveries)
                if settled:
                    settled.pop().result()
                acks = [Ack(delivery.claim) for delivery in deliveries]
                settled.append(lanes.submit(lambda acks=acks: rig.settle(consumer, *acks)))  # type: ignore[misc]
            sending.result()
            settled.pop().result()
        assert [delivery.id for delivery in taken] == ids
        assert rig.transport.counts([QUEUE])[QUEUE].claimed == 0


def _hears(consumer: Consumer) -> bool:
    consumer.fetch(0, 1.0)
    return bool(consumer.commands())
