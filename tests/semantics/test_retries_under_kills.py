"""Semantics of retries while children are killed: counted exactly, lost never."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections import Counter

import semantics_tasks as tasks

COUNT = 1000


class Killer(threading.Thread):
    """Kills (SIGKILL) a random child every 30 ms until it is stopped."""

    def __init__(self, engine, rng: random.Random) -> None:
        super().__init__()
        self.engine = engine
        self.rng = rng
        self.kills = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.03):
            pids = [row["pid"] for row in self.engine.children() if row["pid"] and row["state"] != "starting"]
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.rng.choice(pids), signal.SIGKILL)
                    self.kills += 1


def test_a_thousand_tasks_that_retry_twice_while_children_are_killed_are_counted_exactly_and_none_is_lost(fresh):
    """Each ends SUCCESS with two retries: its runs that were not killed are one for each number of retries, and every
    further start is one that a kill was to blame for."""
    engine = fresh.start(concurrency=3, worker="max_crashes = 100")
    killer = Killer(engine, random.Random(7))
    killer.start()
    try:
        results = tasks.retry_twice.map(range(COUNT))
        values = [result.get(timeout=120) for result in results]
    finally:
        killer.stopped.set()
        killer.join()
    assert values == [2] * COUNT
    assert {result.state for result in results} == {"SUCCESS"}
    assert {result.retries for result in results} == {2}
    starts = Counter((int(key), int(retries)) for key, retries, _ in fresh.ledger("run"))
    assert set(starts) == {(key, retries) for key in range(COUNT) for retries in range(3)}
    assert killer.kills >= 5
    repeated = sum(starts.values()) - 3 * COUNT
    assert repeated <= killer.kills, "a run was repeated without a kill to blame"
    for _, _, deliveries in fresh.ledger("run"):
        assert int(deliveries) <= 1 + killer.kills
    assert not any(fresh.place(result) for result in results[:50])
