"""Who holds a claim: living workers keep theirs, however long; those of the dead are taken over, once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.contract import Ack, Consumer, DeadLetter, Envelope, Release, TakenOver
from engine.testing.transport_suite_kit import DEADLINE, LONGEST_WAIT, QUEUE, Rig, TransportKit, wait_for

LIMITS = (3, 20)
"""max_crashes, max_deliveries."""


class OwnersTests(TransportKit):
    """Claims follow the life of the worker, not of its connection."""

    def test_claimed_is_hidden_from_others(self, rig: Rig) -> None:
        rig.publish("one")
        holder, other = rig.consumer(), rig.consumer(transport=rig.another())
        delivery = rig.take_one(holder)
        assert rig.is_empty(other)
        assert list(other.settle([Ack(delivery.claim)])) == [delivery.claim]
        assert rig.transport.counts([QUEUE])[QUEUE].ready == 0

    def test_a_goodbye_gives_back_uncounted(self, rig: Rig) -> None:
        leaving, staying = rig.consumer(close=False), rig.consumer(transport=rig.another())
        rig.publish("a", "b", "c")
        first = rig.take(leaving, 2)[0]
        leaving.renew([first.claim])
        leaving.close()
        back = rig.take(staying, 3)
        assert [delivery.id for delivery in back] == ["a", "b", "c"]
        assert {(delivery.deliveries, delivery.crashes) for delivery in back} == {(1, 0)}

    def test_reconcile_gives_back_what_is_claimed_but_not_held(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("a", "b", "c")
        a, b, _ = rig.take(consumer, 3)
        rig.settle(consumer, Ack(a.claim))
        reconciled = consumer.reconcile([a.claim, b.claim])
        assert list(reconciled.lost) == [a.claim]
        assert [(held.id, held.claim, held.body) for held in reconciled.held] == [("b", b.claim, b.body)]
        assert reconciled.returned == 1
        back = rig.take_one(consumer)
        assert (back.id, back.deliveries, back.crashes) == ("c", 1, 0)
        rig.settle(consumer, Ack(b.claim))

    def test_reconcile_without_claims_changes_nothing(self, rig: Rig) -> None:
        consumer = rig.consumer()
        rig.publish("a")
        reconciled = consumer.reconcile([])
        assert (list(reconciled.lost), list(reconciled.held), reconciled.returned) == ([], [], 0)
        assert rig.take_ids(consumer, 1) == ["a"]

    def test_claims_outlive_the_dispatcher_or_the_flag_says_no(self, rig: Rig) -> None:
        if rig.capabilities.in_process:
            rig.agree("keeps_claims", False)
            return
        worker = rig.worker(locked=False)
        rig.publish("a", "b")
        first = rig.run("claim", "2", "1", worker=worker)
        first.until("ready")
        first.kill()
        rig.agree("keeps_claims", rig.transport.counts([QUEUE])[QUEUE].claimed == 2)
        if not rig.capabilities.keeps_claims:
            return
        other = rig.consumer(transport=rig.another())
        assert rig.is_empty(other)
        second = rig.transport.consume([QUEUE], worker)
        assert rig.transport.counts([QUEUE])[QUEUE].claimed == 2
        assert second.reconcile([]).returned == 2
        assert rig.take_ids(other, 2) == ["a", "b"]
        second.close()

    def test_a_killed_worker_on_this_host_is_taken_over_at_once(self, rig: Rig) -> None:
        if rig.capabilities.in_process:
            pytest.skip("no other process can hold a claim")
        rig.publish("started", "fetched")
        killed = rig.run("claim", "2", "1")
        killed.until("ready")
        consumer = rig.consumer()
        assert list(consumer.takeover(*LIMITS)) == []
        killed.kill()
        (taken,) = wait_for(lambda: consumer.takeover(*LIMITS), "the takeover")
        assert (taken.worker, taken.released, list(taken.dead)) == (killed.worker.id, 2, [])
        back = {delivery.id: (delivery.deliveries, delivery.crashes) for delivery in rig.take(consumer, 2)}
        assert back == {"started": (2, 1), "fetched": (2, 0)}
        assert list(consumer.takeover(*LIMITS)) == []

    def test_a_worker_whose_lock_is_free_is_taken_over(self, rig: Rig) -> None:
        dead = _dead_consumer(rig)
        rig.publish("one")
        claim = rig.take_one(dead).claim
        dead.renew([claim])
        rig.unlock_all()
        consumer = rig.consumer(worker=rig.worker(locked=False))
        (taken,) = wait_for(lambda: consumer.takeover(*LIMITS), "the takeover")
        assert taken.released == 1
        back = rig.take_one(consumer)
        assert (back.id, back.deliveries, back.crashes) == ("one", 2, 1)
        assert list(dead.settle([Ack(claim)])) == [claim]
        rig.settle(consumer, Ack(back.claim))

    def test_what_is_taken_over_goes_back_to_where_it_stood(self, rig: Rig) -> None:
        dead = _dead_consumer(rig)
        rig.publish("a", "b", "c")
        rig.take(dead, 2)
        rig.unlock_all()
        consumer = rig.consumer(worker=rig.worker(locked=False))
        wait_for(lambda: consumer.takeover(*LIMITS), "the takeover")
        assert rig.take_ids(consumer, 3) == ["a", "b", "c"], "they go back to where they stood, before what came later"

    def test_one_of_two_that_take_over_at_once_tells_of_it(self, rig: Rig) -> None:
        dead = _dead_consumer(rig)
        rig.publish("poison", "fetched")
        poison, _ = rig.take(dead, 2)
        dead.renew([poison.claim])
        rig.unlock_all()
        observers = [rig.consumer(worker=rig.worker(locked=False), transport=rig.another()) for _ in range(2)]
        start = threading.Barrier(2)

        def take_over(observer: Consumer) -> list[TakenOver]:
            start.wait(DEADLINE)
            return list(observer.takeover(1, 20))

        with ThreadPoolExecutor(2) as lanes:
            told = [one for found in lanes.map(take_over, observers) for one in found]
        told = told or list(wait_for(lambda: observers[0].takeover(1, 20), "the takeover"))
        assert sum(one.released for one in told) == 1
        assert [letter.id for one in told for letter in one.dead] == ["poison"], "one worker tells of each dead letter"

    @pytest.mark.parametrize("end", ["released", "reconciled"])
    def test_a_run_that_was_given_back_has_not_started(self, rig: Rig, end: str) -> None:
        dead = _dead_consumer(rig)
        rig.publish("one")
        claim = rig.take_one(dead).claim
        dead.renew([claim])
        if end == "released":
            rig.settle(dead, Release(claim))
        else:
            assert dead.reconcile([]).returned == 1
        rig.take_one(dead)
        rig.unlock_all()
        consumer = rig.consumer(worker=rig.worker(locked=False))
        wait_for(lambda: consumer.takeover(*LIMITS), "the takeover")
        back = rig.take_one(consumer)
        assert (back.deliveries, back.crashes) == (2, 0), "a run that starts belongs to its claim, and ends with it"

    def test_a_worker_of_an_earlier_boot_is_taken_over(self, rig: Rig) -> None:
        dead = rig.consumer(worker=rig.worker(boot_id="an earlier boot"), close=False)
        rig.publish("one")
        rig.take_one(dead)
        consumer = rig.consumer()
        (taken,) = wait_for(lambda: consumer.takeover(*LIMITS), "the takeover")
        assert taken.released == 1

    def test_a_missing_lock_file_proves_nothing_and_a_silent_heart_does(self, rig: Rig) -> None:
        silent = rig.consumer(worker=rig.worker(locked=False, dead_after=0.5), close=False)
        alive = rig.consumer(worker=rig.worker(locked=False, dead_after=0.5))
        elsewhere = rig.consumer(worker=rig.worker(host="elsewhere", boot_id="another kernel"))
        rig.publish("a", "b", "c")
        for holder in (silent, alive, elsewhere):
            rig.take_one(holder)
        observer = rig.consumer()
        taken = _beat_until_taken(observer, alive)
        assert [one.released for one in taken] == [1]
        assert rig.take_ids(observer, 1) == ["a"]
        assert rig.transport.counts([QUEUE])[QUEUE].claimed == 3

    def test_a_living_worker_keeps_its_claims_however_long(self, rig: Rig) -> None:
        long = rig.consumer(worker=rig.worker(dead_after=0.2))
        rig.publish("long")
        claim = rig.take_one(long).claim
        observer = rig.consumer()
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            long.renew([claim])
            assert list(observer.takeover(*LIMITS)) == []
            time.sleep(0.02)
        rig.settle(long, Ack(claim))

    def test_a_worker_that_was_taken_over_may_come_back(self, rig: Rig) -> None:
        paused = rig.consumer(worker=rig.worker(locked=False, dead_after=0.2))
        rig.publish("one")
        claim = rig.take_one(paused).claim
        observer = rig.consumer()
        wait_for(lambda: observer.takeover(*LIMITS), "the takeover")
        assert list(paused.settle([Release(claim)])) == [claim]
        paused.renew([claim])
        assert list(paused.reconcile([claim]).lost) == [claim]
        rig.publish("two")
        back = rig.take(paused, 2)
        assert [delivery.id for delivery in back] == ["one", "two"]
        rig.settle(paused, *(Ack(delivery.claim) for delivery in back))

    def test_the_crash_limit_makes_a_dead_letter(self, rig: Rig) -> None:
        rig.publish("poison", "innocent")
        for crash in (1, 2, 3):
            letters = self._crash(rig, "poison")
            assert len(letters) == (crash == 3), (
                f"with max_crashes={LIMITS[0]} crash number {LIMITS[0]} makes the dead letter, as the crash that a "
                f"takeover finds counts: {len(letters)} after crash number {crash}"
            )
        (letter,) = letters
        assert (letter.id, letter.body) == ("poison", b'{"id": "poison"}')
        assert (letter.deliveries, letter.crashes) == (3, 3), "the crash counts; the last delivery is one of the three"
        assert letter.reason.startswith("crash limit")
        assert [letter.id for letter in rig.transport.dead()] == ["poison"]
        assert rig.take_ids(rig.consumer(), 1) == ["innocent"]

    def test_the_delivery_limit_makes_a_dead_letter(self, rig: Rig) -> None:
        rig.publish("fetched")
        for _ in range(3):
            dead = _dead_consumer(rig)
            rig.take_one(dead)
            rig.unlock_all()
            consumer = rig.consumer(worker=rig.worker(locked=False))
            (taken,) = wait_for(lambda c=consumer: c.takeover(3, 3), "the takeover")  # type: ignore[misc]
        assert [(letter.id, letter.deliveries) for letter in taken.dead] == [("fetched", 3)], (
            "with max_deliveries=3 the loss of delivery number 3 makes the dead letter"
        )
        assert taken.dead[0].reason.startswith("delivery limit")
        assert taken.released == 0
        assert rig.is_empty(consumer)

    def test_a_takeover_wakes_who_waits(self, rig: Rig) -> None:
        dead = _dead_consumer(rig)
        rig.publish("one")
        rig.take_one(dead)
        rig.unlock_all()
        consumer = rig.consumer(worker=rig.worker(locked=False))
        wait_for(lambda: consumer.takeover(*LIMITS), "the takeover")
        assert [delivery.id for delivery in consumer.fetch(1, LONGEST_WAIT)] == ["one"]

    @pytest.mark.parametrize("round", range(4))
    def test_a_process_killed_between_any_two_steps_loses_nothing(self, rig: Rig, round: int) -> None:
        if rig.capabilities.in_process or not rig.capabilities.durable:
            pytest.skip("what the broker holds dies with its process")
        ids = {f"m{n}" for n in range(150)}
        for id in sorted(ids):
            body = b"again" if int(id[1:]) % 3 == 0 else b"once"
            rig.transport.publish([Envelope(id=id, body=body)])
        settled: set[str] = set()
        in_flight: set[str] = set()
        for kill in range(3):
            worker = rig.run("work")
            worker.until("working")
            said = [worker.hear() for _ in range(1 + (3 * round + kill) % 5)]
            worker.kill()
            in_flight |= _note([*said, *worker.rest()], settled)
        consumer = rig.consumer()
        wait_for(lambda: consumer.takeover(99, 99) or rig.transport.counts([QUEUE])[QUEUE].claimed == 0, "takeovers")
        left = rig.ack_all(consumer)
        assert len(left) == len(set(left)), "a message exists twice"
        assert ids - settled - in_flight <= set(left), "a message is lost"
        assert not settled & set(left), "a message came back after it was settled"

    def _crash(self, rig: Rig, id: str) -> list[DeadLetter]:
        dead = _dead_consumer(rig)
        claims = {delivery.id: delivery.claim for delivery in rig.take(dead, 2)}
        dead.renew([claims[id]])
        rig.unlock_all()
        observer = rig.consumer(worker=rig.worker(locked=False))
        (taken,) = wait_for(lambda: observer.takeover(*LIMITS), "the takeover")
        return list(taken.dead)


def _dead_consumer(rig: Rig) -> Consumer:
    """A consumer that is about to be dropped without a goodbye."""
    return rig.consumer(worker=rig.worker(), transport=rig.another(), close=False)


def _beat_until_taken(observer: Consumer, alive: Consumer) -> list[TakenOver]:
    taken: list[TakenOver] = []

    def look() -> bool:
        alive.renew([])
        observer.renew([])
        taken.extend(observer.takeover(*LIMITS))
        return bool(taken)

    wait_for(look, "the takeover of the silent worker")
    return taken


def _note(lines: list[str], settled: set[str]) -> set[str]:
    """Adds what a worker said to have settled; returns what it fetched last: that may be settled or not."""
    in_flight: set[str] = set()
    for line in lines:
        word, *ids = line.split(" ")
        if word == "settled":
            settled.update(ids)
            in_flight = set()
        elif word == "fetched":
            in_flight = set(ids)
    return in_flight
