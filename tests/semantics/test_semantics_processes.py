"""Ends that come from outside: shutdown, deploy, the loss of all processes, unknown tasks that become known."""

from __future__ import annotations

import signal

import pytest
import semantics_tasks as tasks

from engine import NotRegistered, WorkerLostError
from engine.testing.harness import wait_for


def shutdown(site):
    """Stops the engine without waiting for its tasks."""
    site.engine.signal(signal.SIGQUIT)
    site.engine.wait()


def wait_on_record(site, count=1):
    """Waits until the broker has heard, with a heartbeat, that so many runs have begun: every tenth of `dead_after`."""
    wait_for(
        lambda: sum((row["seconds"] or 0) > 0.5 for row in site.engine.children()) == count, "some heartbeats to pass"
    )


@pytest.mark.parametrize("then", ["return", "raise", "retry"])
@pytest.mark.needs("finds")
def test_a_shutdown_releases_a_late_acked_task_whatever_it_does_and_counts_nothing(durable, then):
    durable.start(worker='shutdown_timeout = "0.2s"')
    result = tasks.stubborn.delay(then)
    durable.wait_start(result)
    durable.engine.stop()
    assert durable.ledger("interrupted", result.id) == [["shutdown"]]
    assert result.state == "PENDING", "as before"
    assert durable.place(result) == "ready"
    durable.start()
    durable.wait_start(result, 2)
    result.revoke(terminate=True)


def test_a_task_that_a_shutdown_had_to_kill_is_released_uncounted_too(durable):
    durable.start(worker='shutdown_timeout = "0.2s"\nmax_crashes = 1')
    result = tasks.wait_at.delay("second life")
    durable.wait_start(result)
    shutdown(durable)
    durable.open("second life")
    durable.start(worker="max_crashes = 1")
    assert result.get(timeout=10) == "second life"
    assert durable.starts(result) == [["1"], ["1"]], "counted as no delivery"


def test_a_shutdown_ends_an_early_acked_task_as_lost(durable):
    durable.start(worker='shutdown_timeout = "0.2s"')
    result = tasks.early_wait.delay("never opened")
    durable.wait_start(result)
    durable.engine.stop()
    with pytest.raises(WorkerLostError, match="shutdown"):
        result.get(timeout=10)
    assert durable.place(result) is None


def test_a_deploy_lets_running_tasks_end(durable):
    durable.start()
    result = tasks.wait_at.delay("deploy")
    durable.wait_start(result)
    durable.engine.signal(signal.SIGTERM)
    waiting = tasks.add.delay(1, 2)
    durable.open("deploy")
    durable.engine.wait()
    assert result.get(timeout=10) == "deploy"
    assert len(durable.starts(result)) == 1
    durable.start()
    assert waiting.get(timeout=10) == 3


@pytest.mark.needs("keeps_claims")
def test_when_all_processes_die_what_had_started_counts_a_crash_and_what_had_not_counts_none(durable):
    durable.start()
    running = [tasks.end_at_gate.delay("tree") for _ in range(2)]
    for result in running:
        durable.wait_start(result)
    wait_on_record(durable, 2)
    waiting = tasks.tell.delay()
    early = tasks.app.send_task("early_end", ("x",), countdown=3600)
    durable.engine.kill_tree()
    durable.open("tree")
    durable.start()
    assert [result.get(timeout=20) for result in running] == [[2, 1], [2, 1]], "two deliveries, one crash"
    assert waiting.get(timeout=10)["deliveries"] == 1
    assert durable.place(early) == "delayed"


@pytest.mark.needs("keeps_claims")
def test_a_task_that_takes_all_processes_with_it_too_often_is_lost_with_link_error_and_hooks(durable):
    durable.start(worker="max_crashes = 1")
    result = tasks.hooked_wait.apply_async(("never",), link_error=tasks.record_link.s())
    durable.wait_start(result)
    wait_on_record(durable)
    durable.engine.kill_tree()
    durable.start(worker="max_crashes = 1")
    with pytest.raises(WorkerLostError, match="crash limit"):
        result.get(timeout=20)
    letter = wait_for(lambda: durable.dead(result), "the dead letter")
    assert letter.crashes == 1
    wait_for(lambda: [result.id] in durable.ledger("link"), "link_error to have run")
    wait_for(lambda: durable.ledger("on_failure", result.id), "on_failure to have run")
    assert durable.ledger("after_return", result.id) == [["FAILURE"]]
    assert len(durable.starts(result)) == 1


def test_a_dead_letter_of_an_unknown_task_is_replayed_by_a_worker_that_knows_it(fresh):
    fresh.start()
    result = tasks.app.send_task("late_tasks.late", (4,))
    with pytest.raises(NotRegistered):
        result.get(timeout=10)
    (fresh.folder / "late_tasks.py").write_text(
        "from engine import shared_task\n\n@shared_task\ndef late(x):\n    return x * 2\n"
    )
    fresh.engine.signal(signal.SIGHUP)
    again = tasks.app.AsyncResult(result.id)
    fresh.wait_log("1 dead letters are replayed")
    assert fresh.dead(result) is None
    wait_for(lambda: tasks.app.AsyncResult(result.id).state == "SUCCESS", "it to have run")
    assert again.get(timeout=10) == 8


def test_unknown_tasks_are_replayed_by_the_next_worker_that_starts(durable):
    durable.start()
    results = [tasks.app.send_task("late_tasks.late", (number,)) for number in range(20)]
    for result in results:
        with pytest.raises(NotRegistered):
            result.get(timeout=10)
    durable.engine.stop()
    (durable.folder / "late_tasks.py").write_text(
        "from engine import shared_task\n\n@shared_task\ndef late(x):\n    return x * 2\n"
    )
    durable.start()
    wait_for(
        lambda: {tasks.app.AsyncResult(result.id).state for result in results} == {"SUCCESS"}, "all of them to have run"
    )
    assert not any(durable.dead(result) for result in results)
