"""Any process dies at any moment: nothing is lost, and nothing runs twice without a death to blame."""

import contextlib
import os
import signal
import subprocess
import sys

import psutil
import pytest

from engine import WorkerLostError
from engine.runtime.child.tidy import KEPT_THREADS
from engine.testing.harness import wait_for


def test_a_killed_childs_task_runs_again_and_no_other_is_touched(up):
    engine = up.engines[0]
    up.send("ledger", 1, 2)
    other = up.send("ledger", 2, 2)
    wait_for(lambda: len(up.starts()) == 2, "both to run")
    victim = next(words[2] for words in up.ledger() if words[1] == "1")
    os.kill(int(victim), signal.SIGKILL)
    wait_for(lambda: up.starts()["1"] == 2, "it to run again", 5)
    assert other.get(timeout=10) == 2
    wait_for(lambda: up.ends() == {"1": 1, "2": 1}, "both to end")
    assert up.starts() == {"1": 2, "2": 1}
    deliveries = [words[3] for words in up.ledger() if words[:2] == ["S", "1"]]
    assert deliveries == ["1", "2"]
    wait_for(lambda: "died while running tasks.ledger[" in engine.log, "the log to say what it ran")
    assert "SIGKILL" in engine.log


def test_a_killed_dispatcher_is_replaced_and_no_task_runs_twice(up):
    engine = up.engines[0]
    results = [up.send("ledger", key, 0.01) for key in range(400)]
    for count in (50, 150, 250):
        wait_for(lambda count=count: len(up.ends()) >= count, "some to be done")
        os.kill(engine.pid_of("dispatcher"), signal.SIGKILL)
        wait_for(engine.is_running, "the next")
    assert [result.get(timeout=30) for result in results] == list(range(400))
    assert set(up.starts().values()) == {1}
    assert engine.stop() == 0
    engine.assert_nothing_left()


def test_a_killed_template_is_replaced_and_nothing_else_happens(up):
    engine = up.engines[0]
    children = {row["pid"] for row in engine.children()}
    results = [up.send("ledger", key, 0.01) for key in range(100)]
    template = engine.pid_of("template")
    os.kill(template, signal.SIGKILL)
    wait_for(lambda: engine.pid_of("template") not in (None, template), "another template")
    assert [result.get(timeout=30) for result in results] == list(range(100))
    assert set(up.starts().values()) == {1}
    assert {row["pid"] for row in engine.children()} == children
    victim = children.pop()
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in {row["pid"] for row in engine.children()}, "the new template to fork a child")


def test_a_killed_tree_is_taken_up_by_the_next_engine(site):
    engine = site.engine(concurrency=4).start()
    total = 2000
    results = [site.send("ledger", key, 0.001) for key in range(total)]
    wait_for(lambda: len(site.ends()) >= total // 4, "a part to be done")
    settled_before = {result.id for result in results if result.ready()}
    engine.kill_tree()
    before = site.starts()
    site.engine(concurrency=4).start()
    assert [result.get(timeout=60) for result in results] == list(range(total))
    again = [key for key, count in site.starts().items() if count > 1]
    ids = {str(key): result.id for key, result in enumerate(results)}
    assert max(site.starts().values()) <= 2
    assert all(before[key] == 1 and ids[key] not in settled_before for key in again)


def test_a_killed_supervisor_takes_everything_with_it(up):
    engine = up.engines[0]
    up.send("with_subprocess")
    (_, sub, _) = wait_for(up.ledger, "it to run")[0]
    os.kill(engine.pid, signal.SIGKILL)
    engine.wait()
    wait_for(lambda: not psutil.pid_exists(int(sub)), "the subprocess in the child's session to be killed")
    escaped = int(up.ledger()[0][2])
    wait_for(lambda: {p.pid for p in engine.processes()} <= {escaped}, "the engine's processes to be gone", 5)


@pytest.mark.parametrize(
    ("how", "cause"), [("SIGKILL", "SIGKILL"), ("SIGSEGV", "SIGSEGV"), ("abort", "SIGABRT"), ("0", "exit status 0")]
)
def test_poison_is_dead_lettered_after_three_starts_and_the_innocent_run_once(up, how, cause):
    poison = up.send("die", how)
    innocent = [up.send("ledger", key, 0.005) for key in range(60)]
    with pytest.raises(WorkerLostError, match=cause):
        poison.get(timeout=20)
    assert [result.get(timeout=20) for result in innocent] == list(range(60))
    assert set(up.starts().values()) == {1}
    assert len([words for words in up.ledger() if words[0] == "D"]) == 3
    (dead,) = wait_for(lambda: up.broker(lambda transport: transport.dead()), "the dead letter")
    assert dead.id == poison.id
    assert "crash limit" in dead.reason
    assert cause in dead.reason


def test_an_early_acked_task_whose_process_dies_fails_at_once(site):
    site.engine(rest='[tasks."tasks.die"]\nacks_late = false').start()
    with pytest.raises(WorkerLostError, match="exit status 3"):
        site.get("die", "3")
    assert len(site.ledger()) == 1
    assert not site.broker(lambda transport: transport.dead())


def test_children_killed_while_they_wait_lose_nothing(up):
    """A reader that is killed at the wrong moment takes a packet with it: the dispatcher finds out which."""
    engine = up.engines[0]
    results = []
    for round_ in range(15):
        results += [up.send("ledger", round_ * 20 + key) for key in range(20)]
        for pid in [row["pid"] for row in engine.children() if row["pid"]]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: any(row["state"] != "starting" for row in engine.children()), "children")
    for result in results:
        result.get(timeout=30)
    assert set(up.ends()) == {str(key) for key in range(300)}
    lost = engine.log.count("died while running")
    assert sum(up.starts().values()) - 300 <= lost


def test_a_task_that_closes_every_descriptor_costs_its_own_child_only(up):
    result = up.send("close_everything")
    innocent = [up.send("ledger", key, 0.01) for key in range(50)]
    with pytest.raises(WorkerLostError):
        result.get(timeout=20)
    assert [r.get(timeout=20) for r in innocent] == list(range(50))
    assert set(up.starts().values()) == {1}


def test_a_fork_that_returns_does_not_report_twice(up):
    assert up.get("fork_and_return") == "once"
    assert up.get("add", 1, 2) == 3
    assert up.engines[0].stop() == 0
    up.engines[0].assert_nothing_left()


def test_a_child_is_put_in_order_after_a_task_that_disturbs_it(site):
    site.engine(concurrency=1).start()
    before = site.get("where")
    disturbed = site.get("disturb")
    after = site.get("where")
    assert after == before
    assert after[-1] == disturbed, "it was not replaced"


def test_a_child_keeps_the_threads_of_libraries_and_of_asyncio(site):
    engine = site.engine(concurrency=1).start()
    first = site.get("leave_threads", 2)
    assert [site.get("in_a_thread"), site.get("in_a_thread"), site.get("pid")] == [first] * 3
    site.get("leave_threads", 1, False)
    assert engine.stop() == 0, "no thread holds up the end of its child"


def test_a_child_whose_tasks_leave_more_and_more_threads_is_replaced(site):
    engine = site.engine(concurrency=1).start()
    first = site.get("leave_threads", KEPT_THREADS)
    assert site.get("leave_threads", 1) == first
    assert site.get("pid") != first
    wait_for(lambda: f"left {KEPT_THREADS + 1} threads behind" in engine.log, "the log to say why")


def test_sys_exit_is_a_failure_and_the_child_lives_on(site):
    site.engine(concurrency=1).start()
    before = site.get("pid")
    result = site.send("leave_exit", 3)
    assert isinstance(result.get(timeout=10, propagate=False), SystemExit)
    assert site.get("pid") == before


def test_a_task_sends_a_task_through_the_dispatcher(up):
    inner = up.get("nested", 7)
    wait_for(lambda: up.ends() == {"7": 1}, "the inner task")
    assert up.client.AsyncResult(inner).get(timeout=10) == 7


def test_a_client_killed_while_sending_does_not_hurt(up):
    code = (
        "from engine import Engine\n"
        f"app = Engine('c', broker={up.url!r})\n"
        "while True: app.send_task('tasks.add', (1, 2))\n"
    )
    for _ in range(3):
        client = subprocess.Popen([sys.executable, "-c", code], env=up.engines[0].env, cwd=up.folder)
        wait_for(lambda: up.broker(lambda transport: transport.counts()), "something to be sent")
        client.kill()
        client.wait()
    assert up.get("add", 2, 2) == 4


def test_what_forks_while_it_is_killed_is_killed_too(site):
    engine = site.engine(rest='[tasks."tasks.breed"]\nacks_late = false').start()
    for _ in range(3):
        with pytest.raises(WorkerLostError):
            site.get("breed")

    def strangers() -> set[int]:
        seen = {process.pid for process in engine.processes()}
        return seen - {row["pid"] for row in (*engine.status()["processes"], *engine.children())}

    wait_for(lambda: not strangers(), "all that was forked to be gone", 10)


def test_a_slot_that_is_not_filled_again_does_not_tell_of_its_dead_child(up):
    """After a reload the children sit in the upper slots, and their replacements in the lower ones."""
    engine = up.engines[0]
    engine.signal(signal.SIGHUP)
    wait_for(lambda: {row["generation"] for row in engine.children()} == {2}, "the new children")
    result = up.send("ledger", 1, 600)
    (row,) = wait_for(lambda: engine.running("tasks.ledger"), "it to run")
    os.kill(row["pid"], signal.SIGKILL)
    (again,) = wait_for(
        lambda: [r for r in engine.running("tasks.ledger") if r["pid"] not in (None, row["pid"])], "it to run again"
    )
    assert again["slot"] != row["slot"]
    result.revoke(terminate=True)
    wait_for(lambda: up.client.AsyncResult(result.id).state == "REVOKED", "the run to be interrupted")
