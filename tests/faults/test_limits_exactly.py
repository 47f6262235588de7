"""Tasks that end at the very moment of their hard limit: each ends once, and no other is killed in its place."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from faults_rig import Rig

COUNT = int(os.environ.get("LIMIT_TASKS", "300"))
LIMIT = 0.02


def test_tasks_within_five_milliseconds_of_their_limit_end_once_and_kill_no_innocent(
    rigs: Callable[..., Rig],
) -> None:
    rig = rigs("sqlite")
    rig.start(concurrency=4)
    lasts = random.Random(8)
    guilty, innocent = [], []
    for _ in range(COUNT):
        guilty.append(rig.send("last", LIMIT + lasts.uniform(-0.005, 0.005), time_limit=LIMIT))
        innocent.append(rig.send("last", 0.001))
    ends = [type(result.get(timeout=120, propagate=False)).__name__ for result in guilty]
    assert set(ends) <= {"str", "TimeLimitExceeded"}
    assert "TimeLimitExceeded" in ends
    assert [result.get(timeout=120) for result in innocent] == [result.id for result in innocent]
    rig.wait_empty()
    counts = rig.ledger().count()
    assert len(counts) >= 2 * COUNT - ends.count("TimeLimitExceeded"), "a limit of 20 ms may end before the first line"
    assert set(counts.values()) == {1}
    states = [result.state for result in guilty]
    assert states.count("FAILURE") == ends.count("TimeLimitExceeded")
    assert states.count("SUCCESS") == ends.count("str")
