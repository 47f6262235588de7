"""A process dies at the worst moment, at each of the named points: nothing is lost, nothing starts again unsaid."""

from __future__ import annotations

import importlib
import itertools
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
NOT_HERE = ("publish.", "handout.acknowledged", "fork.service", "fetch.before_reconcile", "fetch.after_reconcile")
DISPATCHERS = ("settle.before", "settle.after", "consume.before", "consume.after")
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


def test_what_was_acknowledged_early_and_not_handed_out_is_lost_and_never_runs_twice(
    rigs: Callable[..., Rig],
) -> None:
    """At most once: only as many are acknowledged ahead as children are idle."""
    rig = rigs("sqlite")
    engine = rig.start(
        concurrency=3, rest='[tasks."faults.sleep"]\nacks_late = false', points="handout.acknowledged:kill:5"
    )
    results = rig.send_many("sleep", 60, 0.005)
    rig.wait_log("dispatcher started (start 2")
    rig.wait_empty()
    assert engine.stop() == 0  # after the last run has ended
    starts = rig.ledger().count()
    lost = [result for result in results if result.id not in starts]
    assert set(starts.values()) == {1}
    assert 1 <= len(lost) <= 3
    assert {result.state for result in lost} == {"PENDING"}
    assert {result.state for result in results if result.id in starts} == {"SUCCESS"}


def test_a_death_while_a_new_dispatcher_compares_claims_is_counted(rigs: Callable[..., Rig]) -> None:
    rig = rigs("sqlite")
    engine = rig.start(points="fetch.before_reconcile:sleep=1:2")
    result = rig.send("sleep", 3)  # longer than a slow machine takes for another dispatcher
    start = wait_for(lambda: rig.ledger().starts, "it to run")[0]
    os.kill(engine.pid_of("dispatcher"), signal.SIGKILL)
    rig.wait_log("dispatcher started (start 2")
    os.kill(start.pid, signal.SIGKILL)
    assert result.get(timeout=20) == result.id
    assert rig.starts(result.id) == 2
    rig.wait_log("task lost", "it runs again (crash 1)")


@pytest.mark.parametrize(
    ("transport", "point"),
    [
        *itertools.product(["sqlite", "redis", "rabbitmq"], DISPATCHERS),
        *itertools.product(["sqlite", "redis", "rabbitmq"], ["outcome.before_send", "outcome.after_send"]),
    ],
)
def test_a_retry_and_the_end_before_it_are_one_whatever_dies_between(
    rigs: Callable[..., Rig], transport: str, point: str
) -> None:
    rig = rigs(transport)
    # Where each dispatcher has to connect to a server and to ask what was delivered again, that is most of its life.
    count = 40 if transport != "rabbitmq" or point not in DISPATCHERS else 8
    rig.start(concurrency=3, points=f"{point}:kill:4+" if point in DISPATCHERS else f"{point}:kill:20")
    results = rig.send_many("again", count, 3)
    for result in results:
        assert result.get(timeout=60) == 3
    rig.wait_empty(60)  # each dispatcher settles a few messages before it dies
    counts = rig.ledger().count()
    assert set(counts) == {f"{result.id}/{retries}" for result in results for retries in range(4)}
    extra = sum(counts.values()) - len(counts)
    assert extra == (1 if point == "outcome.before_send" else 0)


@pytest.mark.parametrize("transport", ["sqlite", "redis", "rabbitmq"])
@pytest.mark.parametrize("point", ["publish.before", "publish.after", "settle.after"])
def test_what_a_task_sends_is_sent_once_whatever_dies_on_the_way(
    rigs: Callable[..., Rig], transport: str, point: str
) -> None:
    rig = rigs(transport)
    engine = rig.start(concurrency=3, points=f"{point}:kill:7+")
    # One round after the other: however much is settled at a time, each round takes one settlement at least.
    inner = {id for _ in range(8) for result in rig.send_many("send", 2, 6) for id in result.get(timeout=60)}
    assert len(inner) == 96
    rig.wait_empty(60)  # each dispatcher settles a few messages before it dies
    counts = rig.ledger().count()
    assert len(counts) == 112
    assert set(counts.values()) == {1}
    assert "dispatcher died" in engine.log


@pytest.mark.parametrize("point", ["fetch.before_reconcile", "fetch.after_reconcile"])
def test_a_new_dispatcher_that_dies_while_it_compares_claims_loses_nothing(
    rigs: Callable[..., Rig], point: str
) -> None:
    rig = rigs("sqlite")
    engine = rig.start(concurrency=3, points=f"{point}:kill:2")
    results = rig.send_many("sleep", 200, 0.01)
    wait_for(lambda: len(rig.ledger().ends) > 20, "some to end")
    os.kill(engine.pid_of("dispatcher"), signal.SIGKILL)
    for result in results:
        assert result.get(timeout=20) == result.id
    assert set(rig.ledger().count().values()) == {1}
    rig.wait_log("dispatcher started (start 3")
