"""Limits and interruptions hit the run that they are meant for, once, and never the engine's own code (semantics)."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from engine import Interrupted, SoftTimeLimitExceeded
from engine.app import wire
from engine.runtime.board import ASKED, REASON_BITS, REVOKED, SOFT, Board
from engine.runtime.child.child_run import ChildRun


@pytest.fixture
def run() -> Iterator[ChildRun]:
    """A child's run: number 5, with a soft limit of 2 s."""
    board = Board(1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    made = ChildRun(board.slot(0), theirs, hostname="host", worker="worker")
    made.begin(wire.Handout(1, 0, "default", b"claim", 1, 0, b""), 5, 2.0)
    yield made
    ours.close()
    theirs.close()


def ask(run: ChildRun, number: int, reason: int) -> None:
    run._slot[ASKED] = number << REASON_BITS | reason


def signalled(run: ChildRun) -> str:
    run.handle(10, sys._getframe())
    return "went on"


def test_a_signal_for_the_task_before_does_not_hit_this_one(run: ChildRun) -> None:
    ask(run, 4, SOFT)
    assert run.invoke(lambda: signalled(run)) == "went on"
    assert run.interrupted is None


def test_a_signal_for_this_task_hits_it_once(run: ChildRun) -> None:
    def task() -> str:
        ask(run, 5, SOFT)
        with pytest.raises(SoftTimeLimitExceeded) as caught:
            signalled(run)
        assert caught.value.seconds == 2.0
        return signalled(run)

    assert run.invoke(task) == "went on"


def test_a_stronger_reason_is_raised_after_a_weaker_one_and_not_the_other_way_round(run: ChildRun) -> None:
    def task() -> str:
        ask(run, 5, REVOKED)
        with pytest.raises(Interrupted):
            signalled(run)
        ask(run, 5, SOFT)
        return signalled(run)

    assert run.invoke(task) == "went on"
    assert run.interrupted == "revoked"


def test_a_signal_outside_of_the_function_raises_nothing(run: ChildRun) -> None:
    ask(run, 5, SOFT)
    assert signalled(run) == "went on"


def test_a_shield_holds_it_back_until_its_end(run: ChildRun) -> None:
    steps = []

    def task() -> None:
        ask(run, 5, SOFT)
        with pytest.raises(SoftTimeLimitExceeded), run.shield():
            steps.append(signalled(run))

    run.invoke(task)
    assert steps == ["went on"]
