"""Which child is in which slot, when the next is spawned, how long a failure is waited out: with a made-up clock."""

import random

from engine.runtime.supervisor.children import STEADY, Backoff, Pool, Stage


def start(pool: Pool, template: int = 1, now: float = 0.0) -> list[int]:
    """Orders all that are missing, and lets them come up; returns the slots."""
    slots = []
    for child in pool.order(template, now):
        spawned = pool.spawned(child.slot, child.spawn, 1000 + child.spawn, now)
        assert spawned is not None
        pool.ready(spawned, now)
        slots.append(child.slot)
    return slots


def test_as_many_children_as_wanted_and_no_more():
    pool = Pool(3)
    assert start(pool) == [0, 1, 2]
    assert pool.order(1, 1.0) == []


def test_a_dead_child_is_replaced_at_once_and_alone():
    pool = Pool(3)
    start(pool)
    pool.empty(pool.children[1])
    assert start(pool, now=5.0) == [1]


def test_there_is_room_for_a_second_generation_beside_the_first():
    pool = Pool(2)
    start(pool, template=1)
    assert start(pool, template=2) == [2, 3]
    assert pool.order(3, 0.0) == [], "no slot is free"
    pool.empty(pool.children[0])
    assert [child.slot for child in pool.order(3, 0.0)] == [0]


def test_the_birth_of_a_child_given_up_is_ignored():
    pool = Pool(1)
    (child,) = pool.order(1, 0.0)
    pool.empty(child)
    assert pool.spawned(child.slot, child.spawn, 4711, 0.0) is None
    (another,) = pool.order(1, 0.0)
    assert another.slot == child.slot
    assert pool.spawned(child.slot, child.spawn, 4711, 0.0) is None, "the order for this slot is another by now"
    born = pool.spawned(another.slot, another.spawn, 4712, 0.0)
    assert born is pool.by_pid(4712)
    assert pool.spawned(another.slot, another.spawn, 4713, 0.0) is None, "it was told of before"
    assert pool.by_pid(4711) is pool.by_pid(4713) is None


def test_an_order_that_is_not_answered_is_overdue():
    pool = Pool(2)
    pool.order(1, 100.0)
    answered, waiting = pool.of(1)
    pool.spawned(answered.slot, answered.spawn, 4711, 110.0)
    assert list(pool.overdue(130.0, 30.0)) == []
    assert list(pool.overdue(130.1, 30.0)) == [waiting]


def test_children_that_die_before_they_are_ready_are_spawned_later_and_later_one_at_a_time():
    pool = Pool(4)
    for child in pool.order(1, 0.0):
        pool.failed(child, 0.0)
        pool.empty(child)
    assert pool.order(1, 0.0) == []
    assert len(pool.order(2, 0.0)) == 4, "another generation has its own backoff"
    for child in pool.of(2):
        pool.empty(child)
    assert len(pool.order(1, 100.0)) == 1


def test_one_that_comes_up_ends_the_backoff():
    pool = Pool(3)
    for child in pool.order(1, 0.0):
        pool.failed(child, 0.0)
        pool.empty(child)
    assert start(pool, now=100.0) == [0], "one, to see whether it works now"
    assert start(pool, now=100.0) == [1, 2]


def test_after_one_failure_all_that_are_missing_are_spawned():
    pool = Pool(3)
    first, *others = pool.order(1, 0.0)
    pool.failed(first, 0.0)
    for child in (first, *others):
        pool.empty(child)
    assert start(pool, now=0.0) == [0, 1, 2]


def test_a_child_that_worked_and_died_is_no_failure_to_start():
    pool = Pool(1)
    for _ in range(50):
        assert start(pool, now=1.0) == [0]
        assert pool.children[0].stage is Stage.UP
        pool.worked()
        pool.died_early(pool.children[0], 1.0)
        pool.empty(pool.children[0])


def test_children_that_die_soon_after_they_came_up_slow_the_spawning_to_one_in_a_second():
    pool = Pool(1)
    now = 0.0
    spawned = 0
    while now < 20.0:
        for child in pool.order(1, now):
            spawned += 1
            pool.spawned(child.slot, child.spawn, 4711, now)
            pool.ready(child, now)
            pool.died_early(child, now + 0.01)
            pool.empty(child)
        now += 0.01
    assert 20 < spawned < 60
    pool.worked()
    assert len(pool.order(1, now)) == 1


def test_children_that_die_waiting_when_they_have_been_up_for_a_while_are_replaced_at_once():
    pool = Pool(1)
    now = 0.0
    for _ in range(50):
        for uptime in (0.0, STEADY + 1):  # one that was up for a while ends the counting of those that were not
            assert start(pool, now=now) == [0]
            now += uptime
            pool.died_early(pool.children[0], now)
            pool.empty(pool.children[0])


def test_only_those_that_are_up_take_tasks():
    pool = Pool(3)
    start(pool)
    pool.empty(pool.children[0])
    pool.order(1, 0.0)
    assert [child.slot for child in pool.up(1)] == [1, 2]
    assert [child.slot for child in pool.of(1)] == [0, 1, 2]
    assert pool.up(2) == pool.of(2) == []


def test_a_child_that_is_slow_to_start_is_told_of_once():
    pool = Pool(2)
    for child in pool.order(1, 100.0):
        pool.spawned(child.slot, child.spawn, 4711, 100.0)
    pool.ready(pool.children[1], 101.0)
    assert pool.slow(130.0, 30.0) == []
    assert pool.slow(130.1, 30.0) == [pool.children[0]]
    assert pool.slow(131.0, 30.0) == []


def test_backoff_first_at_once_then_doubling_with_jitter_up_to_a_most():
    backoff = Backoff(first=0.1, most=30.0, rng=random.Random(1))
    backoff.failed(100.0)
    assert backoff.not_before == 0.0
    for power in range(15):
        backoff.failed(100.0)
        full = min(30.0, 0.1 * 2**power)
        assert 100.0 + full / 2 <= backoff.not_before <= 100.0 + full
    backoff.succeeded()
    assert (backoff.failures, backoff.not_before) == (0, 0.0)


def test_backoff_is_hopeless_at_its_limit_and_never_without_one():
    limited, endless = Backoff(limit=3), Backoff()
    for _ in range(3):
        assert not limited.hopeless
        limited.failed(0.0)
        endless.failed(0.0)
    assert limited.hopeless
    assert not endless.hopeless
