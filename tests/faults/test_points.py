"""A process dies at the worst moment, at each of the named points: nothing is lost, nothing starts again unsaid."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from faults_rig import Rig

from engine.testing.faults.chaos import Chaos, Plan
from engine.testing.faults.points import POINTS, Order
from engine.testing.harness import wait_for

NEEDS_A_DEATH = ("death.", "reap.", "adopt.")
NOT_HERE = ("publish.", "fetch.before_reconcile", "fetch.after_reconcile")
"""Points that need more than tasks that run: they have tests of their own."""


@pytest.mark.parametrize("point", POINTS)
def test_every_point_is_where_it_is_said_to_be(point: str) -> None:
    module, path, side = POINTS[point]
    owner = importlib.import_module(module)
    for name in path.split("."):
        owner = getattr(owner, name)
    assert callable(owner)
    assert side in ("before", "after")


@pytest.mark.parametrize("text", ["nowhere:kill", "settle.after:explode", "settle.after", "settle.after:kill:x"])
def test_an_order_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no point|no action|invalid literal"):
        Order.parse(text)


@pytest.mark.parametrize("point", [name for name in POINTS if not name.startswith(NOT_HERE)])
def test_a_death_at_this_point_loses_nothing(tmp_path: Path, point: str) -> None:
    kills = ["child"] if point.startswith(NEEDS_A_DEATH) else []
    plan = Plan(
        "sqlite", 1.0 if kills else 0, 1, kills, tasks=200, children=3, lasts=0.002, every=0.1, ahead=100,
        points=f"{point}:kill:{5 if point.startswith('adopt.') else 2}",
    )  # fmt: skip
    chaos = Chaos(plan, tmp_path)
    verdict = chaos.run()
    assert verdict.ok, verdict.line()
    assert "SIGKILL" in chaos.engine.log or verdict.kills["tree"], "nobody came by"


@pytest.mark.parametrize("point", ["settle.before", "settle.after", "consume.before", "fetch.after_claim"])
def test_a_dispatcher_that_dies_there_again_and_again_still_gets_it_done(tmp_path: Path, point: str) -> None:
    plan = Plan("sqlite", 2.0, 1, ["child"], tasks=200, children=3, lasts=0.005, ahead=100, points=f"{point}:kill:4+")
    chaos = Chaos(plan, tmp_path)
    verdict = chaos.run()
    assert verdict.ok, verdict.line()
    assert chaos.engine.log.count("dispatcher died") >= 5


def test_a_death_while_a_new_dispatcher_compares_claims_is_counted(rigs: Callable[..., Rig]) -> None:
    rig = rigs("sqlite")
    engine = rig.start(points="fetch.before_reconcile:sleep=1:2")
    result = rig.send("sleep", 0.7)
    start = wait_for(lambda: rig.ledger().starts, "it to run")[0]
    os.kill(engine.pid_of("dispatcher"), signal.SIGKILL)
    rig.wait_log("dispatcher started (start 2")
    os.kill(start.pid, signal.SIGKILL)
    assert result.get(timeout=20) == result.id
    assert rig.starts(result.id) == 2
    rig.wait_log("task lost", "it runs again (crash 1)")
