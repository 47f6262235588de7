"""A real worker, from the fixture."""

from __future__ import annotations

import os

import pytest
import shop

from engine.testing import Worker, assert_sent, worker
from engine.testing.harness import wait_for


def test_a_worker_runs_the_app_in_other_processes(engine_worker: Worker) -> None:
    assert shop.where.delay().get(timeout=10) != os.getpid()
    assert_sent(shop.where, count=1)
    with pytest.raises(ValueError, match="no apples"):
        shop.fail.delay().get(timeout=10)
    wait_for(lambda: "no apples" in engine_worker.log, "the traceback in the log")
    assert engine_worker.status()["state"] == "running"


def test_no_process_and_no_folder_is_left() -> None:
    with worker("shop:app", concurrency=1, rest='[routes]\n"shop.where" = "default"') as running:
        engine = running.process
        assert shop.where.delay().get(timeout=10) in [row["pid"] for row in engine.children()]
    engine.assert_nothing_left()
    assert not engine.folder.exists()


def test_a_worker_that_does_not_start_shows_its_log() -> None:
    with pytest.raises(AssertionError, match="unknown section"), worker("shop:app", rest="[workers]"):
        pass
