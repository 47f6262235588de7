"""Runs that end to be retried under a claim that is gone: one retry is sent, by whoever gets the message again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gate_rig import GateRig

from engine.contract import Envelope
from engine.contract.transport import Ack, Again
from engine.runtime.dispatcher.gate import HOLD


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., GateRig]]:
    """Makes workers, each with a gate, and ends them. One of the same name as one that is dead follows it."""
    made: list[GateRig] = []

    def one(name: str, other: GateRig | None = None) -> GateRig:
        made.append(GateRig(tmp_path, name, None if other is None else other.backend))
        return made[-1]

    yield one
    for rig in made:
        rig.die()


@pytest.mark.parametrize("follower", ["w1", "w2"])
@pytest.mark.parametrize("is_known", [True, False], ids=["run of this dispatcher", "run of the one before"])
def test_it_is_sent_after_the_death_of_the_dispatcher_that_heard_of_it(
    make: Callable[..., GateRig], follower: str, is_known: bool
) -> None:
    first = make("w1")
    run = first.runs(first.come(first.delivery("a", gate=False))[0])
    retry = Again(run.claim, Envelope("a", b"next"))
    if is_known:
        first.lose_connection()
    first.ends(run, retry, final=False)
    first.settle(run.claim)
    first.die()
    second = make(follower, first)
    again = second.comes("a")
    assert second.settle() == [Again(again.claim, retry.envelope)]
    second.later(HOLD + 0.1)
    assert second.handed == []


@pytest.mark.parametrize("keeps_results", [True, False])
def test_one_that_was_refused_before_the_claims_are_compared_is_sent(tmp_path: Path, keeps_results: bool) -> None:
    """What a dispatcher finds in the sockets when it starts is refused at once, its claims being another connection's;
    only then it compares claims. Refused is not acknowledged: the retry is still to be sent."""
    rig = GateRig(tmp_path, keeps_results=keeps_results)
    run = rig.runs(rig.come(rig.delivery("a", gate=False))[0])
    retry = Again(run.claim, Envelope("a", b"next"))
    rig.ends(run, retry, final=False)
    rig.settle(run.claim)
    rig.lose_connection()
    again = rig.comes("a")
    assert rig.settle() == [Again(again.claim, retry.envelope)]
    rig.die()


def test_an_earlier_run_that_was_acknowledged_takes_nothing_from_it(tmp_path: Path) -> None:
    rig = GateRig(tmp_path, keeps_results=False)
    first = rig.runs(rig.come(rig.delivery("a", gate=False))[0])
    rig.ends(first, Again(first.claim, Envelope("a", b"first")), final=False)
    rig.settle()
    second = rig.runs(rig.come(rig.delivery("a", gate=False, retries=1))[0])
    retry = Again(second.claim, Envelope("a", b"second"))
    rig.ends(second, retry, final=False)
    rig.settle(second.claim)
    rig.lose_connection()
    again = rig.comes("a", retries=1)
    assert rig.settle() == [Again(again.claim, retry.envelope)]
    rig.die()


def test_once_it_runs_its_message_is_dropped(make: Callable[..., GateRig]) -> None:
    first = make("w1")
    run = first.runs(first.come(first.delivery("a", gate=False))[0])
    first.ends(run, Again(run.claim, Envelope("a", b"next")), final=False)
    first.settle(run.claim)
    second = make("w2", first)
    second.runs(second.comes("a", copied=True, retries=1))
    third = make("w3", first)
    again = third.comes("a")
    assert third.settle() == [Ack(again.claim)]


def test_one_that_is_in_hand_here_keeps_its_mark(make: Callable[..., GateRig]) -> None:
    """It was sent, and the answer came too late."""
    rig = make("w1")
    run = rig.runs(rig.come(rig.delivery("a", gate=False))[0])
    rig.ends(run, Again(run.claim, Envelope("a", b"next")), final=False)
    rig.gate.marks.hold("a", 1, 0.0, lambda: None)
    rig.settle(run.claim)
    mark = rig.backend.mark("a")
    assert mark is not None
    assert (mark.retries, mark.again) == (1, None)


def test_a_copy_of_the_run_before_it_that_is_dropped_takes_no_mark_from_it(make: Callable[..., GateRig]) -> None:
    """The run before was sent twice. While its other copy is dropped, the retry is in hand, and not begun: should the
    dispatcher die now, the next one gets the retry again, and must not take it for one that has ended."""
    first = make("w1")
    copies = [first.comes("a", copied=True), first.comes("a", copied=True)]
    run = first.runs(copies[0])
    first.ends(run, Again(run.claim, Envelope("a", b"next")), final=False)
    first.settle()
    first.comes("a", copied=True, retries=1)
    first.later(HOLD + 0.1)
    assert [settled.claim for settled in first.settle()] == [copies[1].claim], "dropped: its run has ended"
    assert first.handed == ["a"]
    first.die()
    second = make("w1", first)
    second.comes("a", copied=True, retries=1)
    second.later(HOLD + 0.1)
    assert second.settle() == []
    assert second.handed == ["a"]
