"""Limits are enforced from outside, on the task they are meant for and on no other."""

import os
import subprocess
import sys

import psutil
import pytest

from engine import MemoryLimitExceeded, SoftTimeLimitExceeded, TimeLimitExceeded
from engine.testing.harness import wait_for


@pytest.mark.parametrize("task", ["spin", "spin_in_c"])
def test_the_hard_limit_kills_whatever_the_task_does(up, task):
    result = up.send(task, time_limit=0.5)
    with pytest.raises(TimeLimitExceeded, match=r"0\.5 s"):
        result.get(timeout=10)
    assert result.state == "FAILURE"
    assert up.get("add", 1, 2) == 3, "the child was replaced"
    assert len(up.ledger()) == 1, "it was not run again"


def test_the_hard_limit_kills_subprocesses_also_those_with_a_session_of_their_own(up):
    result = up.send("with_subprocess", time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    _, *pids = up.ledger()[0]
    wait_for(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids), "its subprocesses to be gone")


def test_many_tasks_that_reach_their_limit_together_all_end(site):
    site.engine(concurrency=8).start()
    results = [site.send("spin", time_limit=1) for _ in range(8)]
    for result in results:
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=20)
    assert len(site.ledger()) == 8


def test_a_soft_limit_is_raised_in_the_task(up):
    with pytest.raises(SoftTimeLimitExceeded, match=r"0\.2 s"):
        up.get("last", 60, soft_time_limit=0.2)


def test_a_soft_limit_may_be_caught_for_a_partial_result(up):
    assert 0 < up.get("partial", 1000, soft_time_limit=0.3, time_limit=10) < 1000


def test_a_swallowed_soft_limit_meets_the_hard_limit_and_the_record_says_so(up):
    result = up.send("swallow", soft_time_limit=0.2, time_limit=0.6)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    assert "soft" in str(result.traceback)
    assert "swallow" in str(result.traceback), "where it was at the soft limit"


def test_a_soft_limit_never_reaches_the_next_task(up):
    """Tasks that last exactly as long as their limit: each ends by itself or by its limit, none by another's."""
    results = [up.send("last", 0.01, soft_time_limit=0.01) for _ in range(300)]
    innocent = [up.send("last", 0.0) for _ in range(300)]
    ends = [type(result.get(timeout=60, propagate=False)).__name__ for result in results]
    assert set(ends) <= {"str", "SoftTimeLimitExceeded"}
    assert [result.get(timeout=60) for result in innocent] == ["done"] * 300
    assert "died" not in up.engines[0].log


def test_tasks_that_end_at_their_hard_limit_end_once_and_no_innocent_is_killed(up):
    results = [up.send("last", 0.02, time_limit=0.02) for _ in range(150)]
    innocent = [up.send("ledger", key) for key in range(150)]
    ends = [type(result.get(timeout=60, propagate=False)).__name__ for result in results]
    assert set(ends) <= {"str", "TimeLimitExceeded"}
    assert [result.get(timeout=60) for result in innocent] == list(range(150))
    assert set(up.starts().values()) == {1}


def test_a_stopped_child_is_killed_at_its_limit(up):
    result = up.send("spin", time_limit=1)
    (row,) = wait_for(lambda: up.engines[0].running("tasks.spin"), "it to run")
    os.kill(row["pid"], 19)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)


def test_limits_hold_while_nobody_reads_the_log(site):
    """A pipe that is full: the engine's own processes go on, and so do the limits."""
    read_end, write_end = os.pipe()
    engine = site.engine(worker='log_level = "DEBUG"')
    engine.start(wait=False, stderr=write_end)
    try:
        wait_for(engine.is_running, "the engine to run")
        shouting = site.send("shout", 1, time_limit=1)
        with pytest.raises(TimeLimitExceeded):
            shouting.get(timeout=10)
        for _ in range(30):
            with pytest.raises(TimeLimitExceeded):
                site.send("spin", time_limit=0.1).get(timeout=10)
        assert site.get("add", 1, 2) == 3
    finally:
        os.close(read_end)
        os.close(write_end)
    assert engine.stop() == 0


def test_limits_hold_behind_a_pager_left_standing(site):
    pager = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.PIPE)
    engine = site.engine().start(wait=False, stderr=pager.stdin)
    wait_for(engine.is_running, "the engine to run")
    with pytest.raises(TimeLimitExceeded):
        site.send("spin", time_limit=0.3).get(timeout=10)
    pager.kill()
    pager.wait()
    pager.stdin.close()
    assert site.get("add", 1, 2) == 3, "the pager's death does no harm"
    assert engine.stop() == 0


def test_a_memory_limit_kills_the_task_that_grows(site):
    site.engine(rest='[tasks."tasks.eat"]\nmemory_limit = "60MB"').start()
    with pytest.raises(MemoryLimitExceeded):
        site.get("eat", 2000)
    assert site.get("eat", 5) == 5


def test_a_child_that_has_grown_is_replaced_after_its_task(site):
    site.engine(concurrency=1, worker='max_memory_per_child = "60MB"').start()
    first = site.get("hoard", 10)
    assert site.get("hoard", 80) == first
    assert site.get("pid") != first


def test_a_child_is_replaced_after_its_number_of_tasks(site):
    site.engine(concurrency=1, worker="max_tasks_per_child = 10").start()
    pids = [site.get("pid") for _ in range(30)]
    runs = [pids.count(pid) for pid in dict.fromkeys(pids)]
    assert all(9 <= run <= 10 for run in runs[:-1])
    assert len(runs) >= 3


def test_what_a_shield_held_back_is_raised_also_when_its_body_raises(up):
    with pytest.raises(SoftTimeLimitExceeded):
        up.get("shielded", soft_time_limit=0.3)


def test_hooks_for_a_task_whose_child_died_have_its_limit_too(site):
    site.engine(concurrency=1).start()
    failing = site.send("fails_into_a_hook", time_limit=0.5)
    with pytest.raises(TimeLimitExceeded):
        failing.get(timeout=10)
    wait_for(lambda: ["hook"] in site.ledger(), "the hook to run")
    assert site.get("add", 1, 2) == 3, "the child was not held for ever"
