"""Who is reaped beside the children of an engine."""

from __future__ import annotations

import os
import time

import pytest

from engine.runtime.board import Board
from engine.runtime.supervisor.children import Pool
from engine.runtime.supervisor.deaths import KEPT_STRANGERS, Undertaker
from engine.testing.harness import wait_for


@pytest.fixture
def undertaker():
    board = Board(2)
    yield Undertaker(board, Pool(1), [], lambda child: "a task")
    board.close()


def ended(undertaker: Undertaker, status: int = 0) -> int:
    """Has a process end that is no child of the pool; returns its pid."""
    pid = os.fork()
    if pid == 0:
        os._exit(status)
    wait_for(lambda: (pid, status) in [(other, end.status) for other, end in undertaker.reap()], "its end")
    return pid


def test_a_child_whose_birth_is_told_after_its_death_is_known_to_be_dead(undertaker):
    ordered_at = time.monotonic()
    pid = ended(undertaker, 3)
    assert undertaker.has_died_unknown(pid, ordered_at)
    assert not undertaker.has_died_unknown(pid, ordered_at), "the next of this pid is another"


def test_a_process_of_the_same_pid_that_died_before_is_another(undertaker):
    pid = ended(undertaker)
    assert not undertaker.has_died_unknown(pid, time.monotonic())


def test_only_the_last_that_nobody_knew_are_kept(undertaker):
    ordered_at = time.monotonic()
    first, *others = [ended(undertaker) for _ in range(KEPT_STRANGERS + 1)]
    assert not undertaker.has_died_unknown(first, ordered_at)
    assert all(undertaker.has_died_unknown(pid, ordered_at) for pid in others)
