"""Rate limits: over-limit messages wait at the broker, and block no other task and no child, on every transport."""

from __future__ import annotations

import time

import semantics_tasks as tasks

from engine.runtime.dispatcher.rates import LATE, Rates
from engine.testing.harness import wait_for


def times(site, word):
    return sorted(float(line[1]) for line in site.ledger(word))


def test_a_limited_task_keeps_to_its_rate(site):
    tasks.limited.map(range(60))
    wait_for(lambda: len(times(site, "limited")) == 60, "all of them to have run")
    at = times(site, "limited")
    assert at[-1] - at[0] > 59 / 50 - 0.5, "no faster than 50 in a second"
    for count, since in enumerate(at):
        for more, until in enumerate(at[count:]):
            assert more <= 50 * (until - since + 0.5) + 1, "nor in a burst: half a second's worth at most"
    assert len({key for key, _ in site.ledger("limited")}) == 60, "each ran once"


def test_turns_that_were_missed_are_not_made_up_for_in_a_burst():
    """Five seconds in which nothing was fetched: what was due in them starts at the rate all the same."""
    rates, now, started = Rates(), 1000.0, []
    turns = {key: rates.turn("t", str(key), 50.0, now) or now for key in range(500)}
    now += 5
    while turns and now < 1040:
        for key in [key for key in sorted(turns, key=turns.__getitem__) if turns[key] <= now]:
            turn = rates.turn("t", str(key), 50.0, now)
            if turn is None:
                started.append(now)
                del turns[key]
            else:
                turns[key] = turn
        now += 0.005
    assert len(started) == 500
    assert max(started.count(at) for at in started) <= 50 * LATE + 2
    assert started[-1] - started[0] > 9.5


def test_a_thousand_limited_tasks_block_no_other_and_no_child(site):
    limited = tasks.slow_lane.map(range(1000))
    sent = time.time()
    tasks.stamp.map(range(10))
    wait_for(lambda: len(times(site, "stamp")) == 10, "the unlimited ones to have run")
    assert len(times(site, "slow")) <= 2 + (time.time() - sent), "the limited ones were not let through for that"
    wait_for(lambda: not any(row["id"] for row in site.engine.children()), "no child to be held")
    tasks.app.revoke([result.id for result in limited])
    wait_for(lambda: not any(site.place(result) for result in limited[-10:]), "what was revoked to be gone")
