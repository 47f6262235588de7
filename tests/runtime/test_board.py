"""The board: what a child writes is what the others read, and who is woken by it."""

import os

import pytest

from engine.runtime import board as words
from engine.runtime.board import Board


@pytest.fixture
def board():
    made = Board(4)
    yield made
    os.close(made.bell)


def rings(board: Board) -> bool:
    try:
        return os.eventfd_read(board.bell) > 0
    except BlockingIOError:
        return False


def test_a_task_in_hand_is_told_whole(board):
    slot = board.slot(2)
    run = slot.begin(77, b"claim-7", "id-\u00e9".encode(), 5)
    assert (slot[words.STATE], slot[words.SEQUENCE], slot[words.TASK]) == (words.RUNNING, 77, 5)
    assert (slot.claim, slot.task_id) == (b"claim-7", "id-\u00e9")
    assert run == 1
    assert slot.begin(78, b"", b"x", 0) == 2
    assert (slot.claim, slot.task_id) == (b"", "x")


def test_the_longest_id_and_claim_fit_and_stay_in_their_slot(board):
    left, slot, right = board.slot(0), board.slot(1), board.slot(2)
    slot.begin(1, b"c" * words.CLAIM_MAX, b"i" * words.ID_MAX, 0)
    assert slot.claim == b"c" * words.CLAIM_MAX
    assert slot.task_id == "i" * words.ID_MAX
    for other in (left, right):
        assert all(other[word] == 0 for word in range(words.SLOT_WORDS))


def test_generations_go_on_through_the_life_of_a_slot(board):
    slot = board.slot(0)
    slot.begin(1, b"", b"a", 0)
    slot.reset()
    assert slot[words.STATE] == words.EMPTY
    assert slot.begin(2, b"", b"b", 0) == 2


def test_a_child_rings_only_for_a_deadline_before_the_next_look(board):
    slot = board.slot(0)
    board.words[words.NEXT_LOOK_NS] = 1000
    slot.set_deadlines(0, 2000, 1, 0)
    assert not rings(board)
    slot.set_deadlines(500, 2000, 1, 0)
    assert rings(board)
    slot.set_deadlines(0, 0, 0, 0)
    assert not rings(board)
    slot.set_deadlines(0, 0, 0, 1 << 20)
    assert rings(board), "a memory limit has to be looked after from now on"


def test_deadlines_are_gone_after_the_report(board):
    slot = board.slot(0)
    slot.set_deadlines(5, 6, 1, 7)
    slot.clear_deadlines()
    assert (slot[words.SOFT_NS], slot[words.HARD_NS], slot[words.MEMORY_LIMIT]) == (0, 0, 0)
    assert slot[words.STATE] == words.REPORTING


def test_words_written_in_a_fork_are_seen_here(board):
    pid = os.fork()
    if pid == 0:
        board.slot(3).begin(9, b"k", b"forked", 0)
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.slot(3).task_id == "forked"
