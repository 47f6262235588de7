"""The wall clock is set, by a day or an hour, forth and back: no limit fires, nobody is taken for dead, nothing that
runs notices. Only delays and dates go by it. Engine and client are on one host; Redis and RabbitMQ, on another, keep
their own time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from faults_rig import Rig

from engine.app import clock as engine_clock
from engine.testing.faults.clock import WallClock
from engine.testing.harness import wait_for

DAY = 86400.0
OWN_TIME = ("redis", "rabbitmq")
"""Where a delayed message waits by the server's clock. RabbitMQ is told for how long, so retries go on there."""
JUMPS = [0.0, DAY, -DAY, 3600.0, -1.0, 0.0]


@pytest.fixture(params=["memory", "sqlite", "redis", "rabbitmq"])
def rig(request: pytest.FixtureRequest, rigs: Callable[..., Rig]) -> Rig:
    """A rig with no engine started."""
    return rigs(request.param)


@pytest.fixture
def clock(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """The wall clock of the rig's engine, and of this process."""
    rig.clock = WallClock(rig.folder / "clock")
    reading = rig.clock.reading()
    monkeypatch.setattr(time, "time", reading)
    monkeypatch.setattr(engine_clock, "now", reading)
    return rig.clock


def test_a_clock_that_is_set_ends_nothing_and_takes_nobody_for_dead(rig: Rig, clock: WallClock) -> None:
    engine = rig.start(concurrency=3)
    before = rig.pids()
    running = rig.send("hold", "gate", time_limit=300, soft_time_limit=200)
    wait_for(lambda: rig.starts(running.id), "it to run")
    for ahead in JUMPS:
        clock.set(ahead)
        time.sleep(0.3)  # three heartbeats
        for result in rig.send_many("sleep", 30, 0.002):
            assert result.get(timeout=20) == result.id
    (rig.folder / "gate").touch()
    assert running.get(timeout=20) == running.id
    assert rig.pids() == before
    assert set(rig.ledger().count().values()) == {1}
    assert not [words for words in (" is dead", "heartbeat was", "killed child", "Traceback") if words in engine.log]
    rig.wait_empty()


def test_retries_and_short_delays_go_on_after_each_jump(rig: Rig, clock: WallClock) -> None:
    """Each is waited for before the next jump: what was due in a second by the old clock is due in a day by the new."""
    if rig.transport == "redis":
        pytest.skip("Redis goes by its own clock, and the child that retries by ours: they must agree")
    rig.start(concurrency=2)
    for before, ahead in pairwise(JUMPS):
        clock.set(ahead)
        result = rig.send("again", 2, 0.05)
        assert result.get(timeout=20) == 2, f"after a jump from {before:g} to {ahead:g}"
    rig.wait_empty()


def test_delayed_tasks_are_kept_through_jumps_and_run_when_it_is_time(rig: Rig, clock: WallClock) -> None:
    rig.start(concurrency=2)
    later = rig.send("sleep", countdown=3600.0)
    clock.set(-DAY)
    for result in rig.send_many("sleep", 10):
        assert result.get(timeout=20) == result.id
    # A result that is not kept by the broker is stored before its message is settled.
    wait_for(lambda: rig.places() == {"delayed": 1}, "the ten to be settled, and nothing else")
    clock.set(0.0)
    assert rig.places() == {"delayed": 1}
    if rig.transport not in OWN_TIME:
        clock.set(DAY)
        assert later.get(timeout=20) == later.id
    assert rig.starts(later.id) == (rig.transport not in OWN_TIME)
