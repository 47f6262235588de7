"""A dispatcher that is killed is replaced under the same incarnation: nothing is lost, nothing runs twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from dispatcher_rig import Rig, message, message_id, pending, wait_for

from engine.app import wire
from engine.errors import BrokerUnavailable


def test_outcomes_that_were_not_settled_are_settled_by_the_next(rig: Rig) -> None:
    rig.publish(*[message(f"m{n}") for n in range(20)])
    first, second = rig.children
    for _ in range(5):
        first.end(first.take())
    long = second.take()
    rig.kill()
    second.end(long)
    rig.start()
    for _ in range(14):
        first.end(first.take())
    for n in range(20):
        rig.wait_state(f"m{n}", "SUCCESS")
        rig.wait_place(f"m{n}", None)
    wait_for(lambda: rig.unsettled_bytes(0) + rig.unsettled_bytes(1) == 0, "all packets to be consumed")


def test_what_no_child_has_taken_is_handed_out_again_under_a_new_sequence(rig: Rig) -> None:
    rig.publish(message("a"), message("b"))
    wait_for(lambda: pending(rig.inlet) > 0, "something to lie in the hand-off socket")
    rig.wait_place("b", "claimed")
    rig.kill()
    rig.start()
    rig.compared(2)
    child = rig.children[0]
    taken = []
    for _ in range(2):
        packet = child.take()
        assert packet.sequence >> 40 == 2
        assert packet.deliveries == 1
        taken.append(packet)
        child.end(packet)
    assert len({packet.claim for packet in taken}) == 2
    rig.wait_state("a", "SUCCESS")
    rig.wait_state("b", "SUCCESS")
    assert rig.take(timeout=0.1) is None


def test_a_run_goes_on_and_is_not_given_to_anybody_else(rig: Rig) -> None:
    rig.publish(message("a"))
    first, second = rig.children
    packet = first.take()
    rig.kill()
    rig.start()
    rig.compared(2)
    assert packet.claim in rig.served.called("reconcile")[1][0]
    rig.publish(message("b"))
    second.end(second.take())
    rig.wait_state("b", "SUCCESS")
    assert rig.place("a") == "claimed"
    first.end(packet)
    rig.wait_state("a", "SUCCESS")


def test_a_death_that_the_dead_dispatcher_did_not_see_counts(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    rig.kill()
    child.die(packet)
    rig.start()
    again = child.take()
    assert (again.crashes, again.deliveries) == (1, 2)
    assert "task lost in child 0" in rig.log


def test_a_death_after_the_restart_is_attributed(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    rig.kill()
    rig.start()
    child.die(packet, why="time_limit", limit=1.0, used=1.1)
    rig.wait_state("a", "FAILURE")
    rig.wait_place("a", None)


def test_what_was_fetched_and_never_handed_out_goes_back(rig: Rig) -> None:
    rig.served.after = lambda method, args: time.sleep(3600) if method == "fetch" and args[0] else None  # type: ignore[func-returns-value]
    rig.publish(message("a"))
    rig.wait_place("a", "claimed")
    rig.kill()
    rig.served.after = lambda method, args: None
    rig.start()
    packet = rig.children[0].take()
    assert (packet.deliveries, packet.crashes) == (1, 0)
    rig.children[0].end(packet)
    rig.wait_state("a", "SUCCESS")


def test_a_settlement_whose_answer_was_lost_with_the_dispatcher_is_repeated_harmlessly(rig: Rig) -> None:
    rig.served.after = lambda method, args: time.sleep(3600) if method == "settle" else None  # type: ignore[func-returns-value]
    rig.publish(message("a"))
    child = rig.children[0]
    child.end(child.take())
    rig.wait_place("a", None)
    assert rig.unsettled_bytes() > 0
    rig.kill()
    rig.served.after = lambda method, args: None
    rig.start()
    wait_for(lambda: rig.unsettled_bytes() == 0, "the packet to be consumed")
    assert rig.state("a") == "SUCCESS"


def test_a_request_that_was_not_answered_is_answered_by_the_next(rig: Rig) -> None:
    rig.kill()
    child = rig.children[0]
    child.ask("publish", [message("b").envelope()], None)
    rig.start()
    assert child.answer().error is None
    assert rig.place("b") in ("ready", "claimed")
    wait_for(lambda: rig.unsettled_bytes() == 0, "the request to be consumed")


def test_a_request_behind_which_its_tasks_end_lies_was_answered(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    rig.kill()
    child.ask("publish", [message("b").envelope()], None)
    child.end(packet)
    rig.start()
    rig.wait_state("a", "SUCCESS")
    wait_for(lambda: rig.unsettled_bytes() == 0, "both packets to be consumed")
    assert rig.place("b") is None


def test_a_drain_goes_on(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    rig.kill()
    rig.start(draining=True)
    child.end(packet)
    rig.wait_state("a", "SUCCESS")
    rig.publish(message("b"))
    assert rig.finish() == 0
    assert rig.place("b") == "ready"


@pytest.mark.parametrize("task", ["t.noop", "t.early"])
def test_what_no_child_has_taken_survives_a_second_generation(rig: Rig, task: str) -> None:
    """The dispatcher dies in the middle of a reload: the next is born with both generations."""
    rig.publish(message("a", task))
    wait_for(lambda: pending(rig.inlet) > 0, "it to lie in the hand-off socket")
    rig.kill()
    first, rig.inlet = rig.inlet, rig.add_pair(2)
    rig.start()
    packet = rig.children[0].take()
    assert (message_id(packet), packet.deliveries, packet.crashes) == ("a", 1, 0)
    assert pending(first) == 0
    rig.children[0].end(packet)
    rig.wait_state("a", "SUCCESS")


def test_a_death_that_was_not_seen_counts_at_a_shutdown_too(rig: Rig) -> None:
    """Although the claims are not compared with the broker before the dispatcher is told to finish."""
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    rig.kill()
    child.die(packet, why="time_limit", limit=1.0, used=1.1)
    compared = len(rig.served.called("reconcile"))
    rig.served.fault = lambda method, args: (
        BrokerUnavailable("away") if method == "reconcile" and len(rig.served.called(method)) < compared + 4 else None
    )
    rig.start(draining=True)
    assert rig.finish() == 0
    assert rig.state("a") == "FAILURE"
    assert rig.place("a") is None


def test_a_death_that_cannot_be_settled_is_left_to_other_workers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.runtime.dispatcher.dispatcher.GIVE_UP_AFTER", 0.5)
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    rig.kill()
    child.die(packet)
    rig.served.fault = lambda method, args: BrokerUnavailable("away") if method == "reconcile" else None
    rig.start(draining=True)
    assert rig.finish() == 1
    assert "its child died (SIGKILL): not settled" in rig.log
    assert rig.place("a") == "claimed"
    assert rig.unsettled_bytes() > 0


@pytest.mark.parametrize("kills", [30])
def test_many_kills(make_rig: Callable[..., Rig], kills: int) -> None:
    """Children go on while dispatcher after dispatcher is killed: each task runs once."""
    rig = make_rig().start()
    rig.publish(*[message(f"m{n}") for n in range(kills * 4)])
    started: list[str] = []
    first, second = rig.children
    runs: list[wire.Handout | None] = [None, None]
    for number in range(kills * 4):
        if number % 4 == 3:
            rig.kill()
            rig.start()
        child, slot = (first, 0) if number % 2 else (second, 1)
        if (run := runs[slot]) is not None:
            child.end(run)
        packet = child.take()
        started.append(message_id(packet))
        runs[slot] = packet
    for child, run in zip(rig.children, runs, strict=True):
        assert run is not None
        child.end(run)
    for n in range(kills * 4):
        rig.wait_state(f"m{n}", "SUCCESS")
    assert sorted(started) == sorted({*started})
    assert rig.finish() == 0
