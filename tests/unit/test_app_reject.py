"""What becomes of a task that raises `Reject`."""

from __future__ import annotations

import time

import pytest
from app_fakes import Bench, FakeRun

from engine import Reject, states
from engine.app import wire
from engine.contract import Again, Dead, Release


def test_reject(bench: Bench) -> None:
    @bench.app.task
    def reject(requeue: bool) -> None:
        raise Reject("not today", requeue=requeue)

    result = reject.delay(False)
    outcome = bench.run()
    assert isinstance(outcome.settlement, Dead)
    assert outcome.settlement.reason == "not today"
    assert result.state == states.FAILURE
    reject.delay(True)
    outcome = bench.run()
    assert isinstance(outcome.settlement, Release)
    assert outcome.settlement.counts == "delivery"
    assert outcome.settlement.at is not None
    assert outcome.settlement.at > time.time()
    reject.delay(True)
    outcome = bench.run(FakeRun(claim=b""))
    assert isinstance(outcome.settlement, Again), "acknowledged before: it is published again"
    assert bench.transport.take().retries == 0


@pytest.mark.parametrize("requeue", [False, True])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (ValueError("not today"), "ValueError: not today"),
        (None, "rejected"),
        ("\ud800", "\\ud800"),
        ("x" * 5000, "x" * 500 + "\n... [4000 characters left out] ...\n" + "x" * 500),
    ],
    ids=["exception", "nothing", "surrogate", "long"],
)
def test_whatever_a_task_gives_as_the_reason_of_a_reject_can_be_sent(
    bench: Bench, given: str | BaseException | None, told: str, requeue: bool
) -> None:
    @bench.app.task
    def reject() -> None:
        raise Reject(given, requeue)

    reject.delay()
    outcome = bench.run()
    wire.decode(wire.encode(outcome))
    if requeue:
        assert outcome.reason == f"rejected: {told}"
    else:
        assert isinstance(outcome.settlement, Dead)
        assert outcome.settlement.reason == told
