"""Rate limits: over-limit messages wait at the broker, and block no other task and no child, on every transport."""

from __future__ import annotations

import heapq
import random
import time

import pytest
import semantics_tasks as tasks

from engine.runtime.dispatcher.rates import Rates
from engine.testing.harness import wait_for


def times(site, word):
    return sorted(float(line[1]) for line in site.ledger(word))


def test_a_limited_task_keeps_to_its_rate(site):
    sent = time.time()
    tasks.limited.map(range(60))
    wait_for(lambda: len(times(site, "limited")) == 60, "all of them to have run")
    for number, at in enumerate(times(site, "limited")):
        assert at - sent >= number / 50 - 0.25, "none before its turn, but for what may be made up for"
    assert len({key for key, _ in site.ledger("limited")}) == 60, "each ran once"


def test_what_was_revoked_while_it_waited_for_its_turn_holds_up_nothing(site):
    waiting = tasks.slow_lane.map(range(500))
    wait_for(lambda: times(site, "slow"), "the first of them to have run")
    tasks.app.revoke([result.id for result in waiting])
    another = tasks.slow_lane.delay(1000)
    another.get(timeout=15)
    assert ["1000"] in [line[:1] for line in site.ledger("slow")]


class Simulation:
    """Workers that fetch messages of one limited task from a broker, each message by any of them."""

    def __init__(self, rate: float, workers: int = 1) -> None:
        self.rate = rate
        self.workers = [Rates() for _ in range(workers)]
        self.now = self.begun = 1000.0
        self.fetched = 0
        self.started: list[tuple[float, str]] = []
        self._random = random.Random(workers)
        self._waiting: list[tuple[float, int, str]] = []

    def send(self, *ids: str) -> None:
        for id in ids:
            heapq.heappush(self._waiting, (self.now, self.fetched + len(self._waiting), id))

    def pass_time(self, seconds: float, *, fetching: bool = True) -> None:
        until = self.now + seconds
        while self.now < until:
            while fetching and self._waiting and self._waiting[0][0] <= self.now:
                self._fetch(heapq.heappop(self._waiting)[2])
            self.now += min(0.005, 0.2 / self.rate)

    def _fetch(self, id: str) -> None:
        self.fetched += 1
        turn = self._random.choice(self.workers).turn("t", id, self.rate, self.now)
        if turn is None:
            self.started.append((self.now - self.begun, id))
        else:
            # A broker that delays is some milliseconds late.
            heapq.heappush(self._waiting, (turn + self._random.random() / 100, self.fetched, id))

    @property
    def seconds(self) -> float:
        """From the first start to the last."""
        return self.started[-1][0] - self.started[0][0]

    @property
    def most_at_once(self) -> int:
        """Starts within any second."""
        return max(sum(at <= other < at + 1 for other, _ in self.started) for at, _ in self.started)


@pytest.mark.parametrize("rate", [0.5, 1.0, 20.0])
def test_one_worker_starts_as_many_as_it_may_in_the_order_of_coming(rate):
    run = Simulation(rate)
    ids = [str(number) for number in range(int(40 * rate))]
    run.send(*ids)
    run.pass_time(45)
    assert [id for _, id in run.started] == ids
    assert 38 <= run.seconds <= 42
    assert run.most_at_once <= rate + 2
    assert run.fetched <= 2 * len(ids), "each waits once"


@pytest.mark.parametrize("rate", [1.0, 20.0])
@pytest.mark.parametrize("workers", [2, 4])
def test_n_workers_start_n_times_as_many(rate, workers):
    run = Simulation(rate, workers)
    run.send(*[str(number) for number in range(int(60 * rate * workers))])
    run.pass_time(100)
    assert len(run.started) == 60 * rate * workers, (
        "turns that pass unused, as another worker has their message, are used"
    )
    assert run.most_at_once <= workers * (1.25 * rate + 2), "a quarter of a second may be made up for"
    assert run.fetched <= 5 * len(run.started)


def test_turns_of_messages_that_never_come_back_are_not_waited_for():
    for revoked in (True, False):
        run = Simulation(1.0)
        run.send(*[str(number) for number in range(500)])
        run.pass_time(5)
        if revoked:
            run.workers[0].forget([str(number) for number in range(500)])
        run._waiting.clear()
        run.pass_time(0 if revoked else 3)
        before = len(run.started)
        run.send("a", "b", "c")
        run.pass_time(5)
        assert [id for _, id in run.started[before:]] == ["a", "b", "c"]


def test_who_comes_later_does_not_overtake_those_that_wait():
    run = Simulation(10.0)
    run.send(*[str(number) for number in range(100)])
    for number in range(60):
        run.pass_time(0.2)
        run.send(f"later {number}")
    run.pass_time(20)
    assert [id for _, id in run.started][:100] == [str(number) for number in range(100)]
    assert len(run.started) == 160


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
    assert max(started.count(at) for at in started) <= 50 * 0.25 + 2
    assert started[-1] - started[0] > 9.5


def test_a_thousand_limited_tasks_block_no_other_and_no_child(site):
    before, sent = len(times(site, "slow")), time.time()
    limited = tasks.slow_lane.map(range(1000))
    tasks.stamp.map(range(10))
    wait_for(lambda: len(times(site, "stamp")) == 10, "the unlimited ones to have run")
    let_through = len(times(site, "slow")) - before
    assert let_through <= 2 + (time.time() - sent), "the limited ones were not let through for that"
    wait_for(lambda: not any(row["id"] for row in site.engine.children()), "no child to be held")
    tasks.app.revoke([result.id for result in limited])
    wait_for(lambda: not any(site.place(result) for result in limited[-10:]), "what was revoked to be gone")
