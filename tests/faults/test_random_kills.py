"""Nothing is lost, and nothing starts again without a reason on record: `scripts/chaos`, cut short."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults_rig import made

from engine.testing.faults.chaos import Chaos, Plan

RUNS = {
    "memory": "child template",
    "sqlite": "child dispatcher template tree",
    "redis": "child dispatcher template tree broker",
}


@pytest.mark.parametrize("transport", RUNS)
def test_nothing_is_lost_whatever_is_killed(tmp_path: Path, transport: str) -> None:
    made(transport, tmp_path)
    kills = RUNS[transport].split()
    plan = Plan(transport, seconds=5, seed=3, kills=kills, tasks=500, children=4, every=0.2, ahead=200)
    verdict = Chaos(plan, tmp_path).run()
    assert verdict.ok, verdict.line()
    assert verdict.kills["child"] >= 3


def test_a_queue_of_short_tasks_survives_its_dispatchers(tmp_path: Path) -> None:
    """Thousands of ends wait to be settled at any moment: each is settled by one of the dispatchers, and told once."""
    plan = Plan("sqlite", seconds=3, seed=5, kills=["dispatcher"], tasks=8000, children=3, lasts=0, ahead=4000)
    verdict = Chaos(plan, tmp_path).run()
    assert verdict.ok, verdict.line()
    assert verdict.extra == 0
    assert verdict.kills["dispatcher"] >= 3
