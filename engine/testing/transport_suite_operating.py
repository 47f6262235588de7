"""What an operator sees and does: counts, dead letters, purge, pause, revoke, find, scheduled."""

from __future__ import annotations

import time

import pytest

from engine.contract import Ack, Again, CannotTell, Consumer, Dead, Delivery, Envelope, Found, QueueCounts, Release
from engine.testing.transport_suite_kit import QUEUE, Rig, TransportKit

HOUR = 3600.0


class OperatingTests(TransportKit):
    """The broker can be looked into, and messages moved by hand."""

    def test_counts_tell_the_places(self, rig: Rig) -> None:
        if not rig.capabilities.delays:
            pytest.skip("the broker does not delay")
        consumer = rig.consumer()
        rig.publish("a", "b", "c", "d")
        rig.publish("later", due=time.time() + HOUR)
        dead, _claimed = rig.take(consumer, 2)
        rig.settle(consumer, Dead(dead.claim, "reason"))
        assert rig.transport.counts([QUEUE]) == {QUEUE: QueueCounts(ready=2, delayed=1, claimed=1, dead=1)}

    def test_counts_of_an_unknown_queue_are_zero(self, rig: Rig) -> None:
        assert rig.transport.counts(["never used"]) == {"never used": QueueCounts()}
        assert rig.transport.counts([]) == {}

    def test_counts_of_all_queues_that_exist(self, rig: Rig) -> None:
        rig.publish("a", queue="first")
        rig.publish("b", "c", queue="second")
        counts = rig.transport.counts()
        assert (counts["first"].ready, counts["second"].ready) == (1, 2)

    def test_counts_tell_of_a_queue_that_is_only_paused(self, rig: Rig) -> None:
        rig.transport.pause("idle", True)
        assert rig.transport.counts().get("idle") == QueueCounts(paused=True)
        rig.transport.pause("idle", False)
        assert not rig.transport.counts().get("idle", QueueCounts()).paused

    def test_dead_letters_are_listed_latest_first(self, rig: Rig) -> None:
        _bury(rig, "a", "b", "c")
        assert [letter.id for letter in rig.transport.dead()] == ["c", "b", "a"]
        assert [letter.id for letter in rig.transport.dead(limit=1)] == ["c"]
        assert list(rig.transport.dead(queue="other")) == []
        assert [letter.id for letter in rig.transport.dead(queue=QUEUE, limit=2)] == ["c", "b"]
        assert all(abs(letter.died - time.time()) < HOUR for letter in rig.transport.dead())

    def test_a_dead_letter_is_shown_whole(self, rig: Rig) -> None:
        body = b"0123456789abcdef" * 8192
        consumer = rig.consumer()
        rig.transport.publish([Envelope(id="large", body=body)])
        rig.settle(consumer, Dead(rig.take_one(consumer).claim, "large"))
        (listed,) = rig.transport.dead()
        assert body.startswith(listed.body)
        letter = rig.transport.dead_letter("large")
        assert letter is not None
        assert letter.body == body
        assert rig.transport.dead_letter("unknown") is None

    def test_a_replay_runs_again_with_its_crashes_forgiven(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("a", "b", priority=4)
        a, b = rig.take(consumer, 2)
        rig.settle(consumer, Release(a.claim, counts="crash"), Ack(b.claim))
        rig.settle(consumer, Dead(rig.take_one(consumer).claim, "reason"))
        assert rig.transport.replay(["a", "unknown"]) == 1
        again = rig.take_one(consumer)
        assert (again.id, again.crashes, again.body, again.priority) == ("a", 0, b'{"id": "a"}', 4)
        assert again.deliveries > 2
        assert list(rig.transport.dead()) == []
        assert rig.transport.replay(["a"]) == 0

    def test_a_replay_wakes_who_waits(self, rig: Rig) -> None:
        consumer = rig.consumer()
        _bury(rig, "a")
        with rig.fetching(consumer) as fetch:
            assert rig.another().replay(["a"]) == 1
            assert [delivery.id for delivery in fetch.result("a replay")] == ["a"]

    def test_a_replay_leaves_a_message_alone_whose_id_is_alive(self, rig: Rig) -> None:
        if not rig.capabilities.finds:
            pytest.skip("a broker that cannot look up an id cannot see that it is alive")
        consumer = rig.consumer()
        _bury(rig, "a")
        rig.transport.publish([Envelope(id="a", body=b"sent again")])
        assert rig.transport.replay(["a"]) == 0, "a message of that id is alive: its dead letter stays one"
        assert [letter.body for letter in rig.transport.dead()] == [b'{"id": "a"}']
        again = rig.take_one(consumer)
        assert (again.body, again.deliveries) == (b"sent again", 1)
        assert rig.is_empty(consumer)
        assert rig.transport.replay(["a"]) == 0, "a message of that id is claimed: its dead letter stays one"
        rig.settle(consumer, Ack(again.claim))
        assert rig.transport.replay(["a"]) == 1
        assert rig.take_one(consumer).body == b'{"id": "a"}'

    def test_dropped_dead_letters_are_gone(self, rig: Rig) -> None:
        _bury(rig, "a", "b")
        assert rig.transport.drop(["a", "unknown"]) == 1
        assert [letter.id for letter in rig.transport.dead()] == ["b"]
        assert rig.transport.replay(["a"]) == 0

    def test_a_dead_id_may_be_sent_and_die_again(self, rig: Rig) -> None:
        _bury(rig, "a")
        _bury(rig, "a")
        assert [letter.id for letter in rig.transport.dead()] == ["a"]
        assert rig.transport.counts([QUEUE])[QUEUE].dead == 1

    def test_purge_deletes_ready_and_delayed_but_not_claimed(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("held", "a", "b")
        held = rig.take_one(consumer)
        rig.publish("later", due=time.time() + HOUR)
        rig.publish("other", queue="other")
        assert rig.transport.purge(QUEUE) == 3 or not rig.capabilities.delays
        assert rig.is_empty(consumer)
        rig.settle(consumer, Release(held.claim))
        assert rig.take_ids(consumer, 1) == ["held"]
        assert rig.transport.counts(["other"])["other"].ready == 1
        rig.publish("a")
        assert rig.take_ids(consumer, 1) == ["a"]

    def test_a_paused_queue_is_not_fetched_from(self, rig: Rig) -> None:
        consumer = rig.consumer(QUEUE, "other")
        rig.transport.pause(QUEUE, True)
        rig.transport.pause(QUEUE, True)
        rig.publish("waits")
        rig.publish("goes", queue="other")
        assert rig.take_ids(consumer, 1) == ["goes"]
        assert rig.is_empty(consumer)
        assert rig.transport.counts([QUEUE])[QUEUE].paused
        assert not rig.transport.counts(["other"])["other"].paused
        with rig.fetching(consumer) as fetch:
            rig.another().pause(QUEUE, False)
            assert [delivery.id for delivery in fetch.result("the end of a pause")] == ["waits"]
        assert not rig.transport.counts([QUEUE])[QUEUE].paused

    def test_a_revoked_message_is_taken_out_and_returned(self, rig: Rig) -> None:
        _needs_revocation(rig)
        consumer = rig.consumer()
        rig.publish("ready", "stays")
        rig.publish("delayed", due=time.time() + HOUR)
        found = rig.transport.revoke(["ready", "delayed", "unknown"], time.time() + HOUR)
        if rig.capabilities.finds:
            assert {(one.id, one.place, one.body) for one in found} == {
                ("ready", "ready", b'{"id": "ready"}'),
                ("delayed", "delayed", b'{"id": "delayed"}'),
            }
        assert _unrevoked(rig, consumer) == ["stays"]

    def test_a_revoked_message_is_known_when_it_comes_later_or_the_flag_says_no(self, rig: Rig) -> None:
        consumer = rig.consumer()
        assert list(rig.transport.revoke(["future"], time.time() + HOUR)) == []
        rig.another().publish([Envelope(id="future", body=b"{}"), Envelope(id="other", body=b"{}")])
        taken = {delivery.id: delivery.revoked for delivery in rig.take(consumer, 2)}
        rig.agree("revokes", taken["future"])
        assert not taken["other"]

    def test_a_revoked_run_that_is_retried_or_released_is_known(self, rig: Rig) -> None:
        _needs_revocation(rig)
        consumer = rig.consumer()
        rig.publish("a", "b")
        a, b = rig.take(consumer, 2)
        assert list(rig.transport.revoke(["a", "b"], time.time() + HOUR)) == []
        rig.settle(consumer, Again(a.claim, Envelope(id="a", body=b"again")), Release(b.claim))
        assert {(d.id, d.revoked) for d in rig.take(consumer, 2)} == {("a", True), ("b", True)}

    def test_a_revocation_is_forgotten_in_time(self, rig: Rig) -> None:
        _needs_revocation(rig)
        consumer = rig.consumer()
        rig.transport.revoke(["a"], time.time() - 1)
        rig.publish("a")
        assert not rig.take_one(consumer).revoked

    def test_find_says_where_a_message_is_or_the_flag_says_no(self, rig: Rig) -> None:
        consumer = rig.consumer()
        due = time.time() + HOUR
        rig.publish("a", queue="first")
        rig.agree("finds", not isinstance(rig.transport.find("a"), CannotTell))
        if not rig.capabilities.finds:
            return
        rig.publish("later", due=due)
        rig.publish("held", "dead")
        held, dead = rig.take(consumer, 2)
        rig.settle(consumer, Dead(dead.claim, "reason"))
        assert rig.transport.find("a") == Found("a", "first", "ready", None, b'{"id": "a"}')
        place, found_due = _place(rig, "later")
        assert place == "delayed"
        assert found_due == pytest.approx(due)
        assert _place(rig, "held") == ("claimed", None)
        assert _place(rig, "dead") == ("dead", None)
        assert rig.transport.find("unknown") is None
        rig.settle(consumer, Ack(held.claim))
        assert rig.transport.find("held") is None

    def test_scheduled_lists_what_is_delayed_or_the_flag_says_no(self, rig: Rig) -> None:
        now = time.time()
        rig.publish("second", due=now + 2 * HOUR)
        rig.agree("lists_scheduled", bool(rig.transport.scheduled()))
        if not rig.capabilities.lists_scheduled:
            return
        rig.publish("first", due=now + HOUR, queue="other")
        rig.publish("third", due=now + 3 * HOUR)
        rig.publish("ready")
        listed = rig.transport.scheduled()
        assert [(one.id, one.queue, one.body) for one in listed] == [
            ("first", "other", b'{"id": "first"}'),
            ("second", QUEUE, b'{"id": "second"}'),
            ("third", QUEUE, b'{"id": "third"}'),
        ]
        assert [one.due for one in listed] == pytest.approx([now + HOUR, now + 2 * HOUR, now + 3 * HOUR])
        assert [one.id for one in rig.transport.scheduled(limit=1)] == ["first"]
        assert [one.id for one in rig.transport.scheduled(queue=QUEUE)] == ["second", "third"]

    def test_a_retry_that_is_delayed_is_listed(self, rig: Rig) -> None:
        if not rig.capabilities.lists_scheduled:
            pytest.skip("delayed messages cannot be listed")
        consumer = rig.consumer()
        rig.publish("one")
        again = Envelope(id="one", body=b"2", due=time.time() + HOUR)
        rig.settle(consumer, Again(rig.take_one(consumer).claim, again))
        assert [(one.id, one.body) for one in rig.transport.scheduled()] == [("one", b"2")]

    def test_check_passes_and_closing_twice_does_no_harm(self, rig: Rig) -> None:
        client = rig.another()
        assert all(isinstance(note, str) for note in client.check())
        client.close()
        client.close()

    def test_a_delivery_says_nothing_about_revocation_it_does_not_know(self, rig: Rig) -> None:
        rig.publish("one")
        assert rig.take_one(rig.consumer()).revoked is False


def _bury(rig: Rig, *ids: str) -> None:
    consumer = rig.consumer()
    for id in ids:
        rig.publish(id)
        rig.settle(consumer, Dead(rig.take_one(consumer).claim, f"reason of {id}"))


def _place(rig: Rig, id: str) -> tuple[str, float | None]:
    found = rig.transport.find(id)
    assert isinstance(found, Found)
    return found.place, found.due


def _needs_revocation(rig: Rig) -> None:
    if not rig.capabilities.revokes:
        pytest.skip("the broker does not record revocations")


def _unrevoked(rig: Rig, consumer: Consumer) -> list[str]:
    taken: list[Delivery] = []
    while deliveries := consumer.fetch(10, 0.05):
        taken.extend(deliveries)
    return [delivery.id for delivery in taken if not delivery.revoked]
