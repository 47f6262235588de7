"""A task that kills every process it runs in stops after three starts, and costs nobody else anything."""

from __future__ import annotations

import pytest
from faults_rig import Rig

from engine import WorkerLostError
from engine.testing.harness import wait_for

INNOCENTS = 500


def test_poison_is_a_dead_letter_after_three_starts_and_five_hundred_innocents_run_once(rig: Rig) -> None:
    rig.start(concurrency=4)
    before = rig.send_many("sleep", INNOCENTS // 2, 0.001)
    poison = rig.send("die", "SIGKILL")
    after = rig.send_many("sleep", INNOCENTS // 2, 0.001)
    with pytest.raises(WorkerLostError):
        poison.get(timeout=20)
    for result in [*before, *after]:
        assert result.get(timeout=20) == result.id
    counts = rig.ledger().count()
    assert counts.pop(poison.id) == 3
    assert set(counts.values()) == {1}
    assert len(counts) == INNOCENTS
    wait_for(lambda: rig.places() == {"dead": 1}, "one dead letter and nothing else")
