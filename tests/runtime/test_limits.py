"""The rules of limits, with times made up: whom a look asks, stops or measures, and when the next look is due."""

from engine.runtime.board import FOREVER, REASON_BITS, REVOKED, SHUTDOWN, SOFT
from engine.runtime.supervisor import limits
from engine.runtime.supervisor.limits import Reading


def asked(run: int, reason: int) -> int:
    return run << REASON_BITS | reason


def test_nothing_runs_so_nothing_is_due_ever():
    due = limits.look([Reading(0, 5), Reading(1, 9)], 1000)
    assert (due.soft, due.hard, due.memory, due.next_ns) == ([], [], [], FOREVER)


def test_the_next_look_is_at_the_earliest_deadline():
    due = limits.look([Reading(0, 1, soft_ns=50, hard_ns=90), Reading(1, 1, hard_ns=70)], 10)
    assert (due.soft, due.hard, due.next_ns) == ([], [], 50)


def test_a_deadline_is_due_when_it_is_reached_not_before():
    reading = Reading(0, 1, hard_ns=100)
    assert limits.look([reading], 99).hard == []
    assert limits.look([reading], 100).hard == [reading]


def test_a_soft_limit_is_asked_for_once():
    late = Reading(0, 7, soft_ns=50, hard_ns=900)
    assert limits.look([late], 60).soft == [late]
    told = Reading(0, 7, soft_ns=50, hard_ns=900, asked=asked(7, SOFT))
    due = limits.look([told], 60)
    assert due.soft == []
    assert due.next_ns == 900


def test_a_request_to_an_earlier_task_does_not_count_for_this_one():
    late = Reading(0, 8, soft_ns=50, asked=asked(7, REVOKED))
    assert limits.look([late], 60).soft == [late]


def test_a_stronger_reason_stands_in_for_a_weaker_one():
    reading = Reading(0, 7, asked=asked(7, SHUTDOWN))
    assert reading.was_asked(SOFT)
    assert reading.was_asked(SHUTDOWN)
    assert not reading.was_asked(REVOKED)


def test_memory_is_measured_ten_times_a_second():
    reading = Reading(0, 1, memory_limit=1 << 20)
    due = limits.look([reading], 1000)
    assert due.memory == [reading]
    assert due.next_ns == 1000 + limits.MEMORY_INTERVAL_NS


def test_a_stopped_child_is_killed_only_for_the_task_that_was_late():
    before = Reading(0, 7, hard_ns=100)
    assert limits.still_late(before, Reading(0, 7, hard_ns=100), 120)
    assert not limits.still_late(before, Reading(0, 8, hard_ns=100), 120), "another task"
    assert not limits.still_late(before, Reading(0, 7, hard_ns=0), 120), "it has reported"
    assert not limits.still_late(before, Reading(0, 7, hard_ns=200), 120), "not late"


def test_a_stopped_child_is_killed_only_for_the_task_that_was_too_large():
    before = Reading(0, 7, memory_limit=5)
    assert limits.still_there(before, Reading(0, 7, memory_limit=5))
    assert not limits.still_there(before, Reading(0, 8, memory_limit=5))
    assert not limits.still_there(before, Reading(0, 7))
