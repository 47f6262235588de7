"""Nothing is lost, and nothing starts again without a reason on record: `scripts/chaos`, cut short."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from faults_rig import Rig, made

from engine.testing.faults.chaos import Chaos, Plan
from engine.testing.harness import wait_for

RUNS = {
    "memory": "child template",
    "sqlite": "child dispatcher template tree",
    "redis": "child dispatcher template tree broker",
    "rabbitmq": "child dispatcher tree",
}


@pytest.mark.parametrize("transport", RUNS)
def test_nothing_is_lost_whatever_is_killed(tmp_path: Path, transport: str) -> None:
    made(transport, tmp_path)
    kills = RUNS[transport].split()
    plan = Plan(
        transport,
        seconds=5,
        seed=3,
        kills=kills,
        tasks=500,
        children=4,
        every=0.2 if transport != "rabbitmq" else 0.5,
        ahead=200,
    )
    verdict = Chaos(plan, tmp_path).run()
    assert verdict.ok, verdict.line()
    assert verdict.kills["child"] >= 2


def test_a_queue_of_short_tasks_survives_its_dispatchers(tmp_path: Path) -> None:
    """Thousands of ends wait to be settled at any moment: each is settled by one of the dispatchers, and told once."""
    plan = Plan("sqlite", seconds=3, seed=5, kills=["dispatcher"], tasks=8000, children=3, lasts=0, ahead=4000)
    verdict = Chaos(plan, tmp_path).run()
    assert verdict.ok, verdict.line()
    assert verdict.extra == 0
    assert verdict.kills["dispatcher"] >= 3


@pytest.mark.parametrize("transport", ["sqlite", "redis", "rabbitmq"])
def test_deploys_under_load_are_noticed_by_no_task(tmp_path: Path, transport: str) -> None:
    made(transport, tmp_path)
    kills = ["reload", "restart"]
    verdict = Chaos(Plan(transport, 3, 1, kills, tasks=300, children=3, every=0.6, ahead=200), tmp_path).run()
    assert verdict.ok, verdict.line()
    assert verdict.extra == 0
    assert verdict.kills["restart"] >= 1


def test_early_acked_tasks_run_at_most_once_and_say_so_when_their_process_dies(
    rigs: Callable[..., Rig],
) -> None:
    rig = rigs("sqlite")
    engine = rig.start(concurrency=4, rest='[tasks."faults.sleep"]\nacks_late = false')
    # Long enough that most victims are killed while they run, and not between two tasks.
    results = rig.send_many("sleep", 120, 0.15)
    for number in range(1, 8):
        enough = 12 * number
        wait_for(lambda enough=enough: len(rig.ledger().ends) > enough, "tasks to end")
        victim = rig.ledger().starts[-1]
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
    ends = [type(result.get(timeout=30, propagate=False)).__name__ for result in results]
    assert set(ends) <= {"str", "WorkerLostError"}
    assert ends.count("WorkerLostError") >= 3
    assert ends.count("WorkerLostError") == engine.log.count("after it had started; it is FAILURE")
    assert set(rig.ledger().count().values()) == {1}
    rig.wait_empty()
