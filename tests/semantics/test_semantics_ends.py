"""Every row of "ends of a task": state, result, message, hooks, link_error and log, on every transport."""

from __future__ import annotations

import os
import signal

import pytest
import semantics_tasks as tasks
from semantics_tasks import Sour

from engine import (
    MemoryLimitExceeded,
    NotRegistered,
    Reject,
    RemoteError,
    SerializationError,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from engine.testing.harness import wait_for


def wait_hooks(site, result, *expected):
    """Waits for the hooks of an end: its name, and what on_failure was given."""
    for hook, *words in expected:
        wait_for(
            lambda hook=hook, words=words: [line[: len(words)] for line in site.ledger(hook, result.id)] == [words],
            f"{hook} {words}, once",
        )


def wait_link(site, result):
    wait_for(lambda: [result.id] in site.ledger("link"), "link_error to have run with the task's id")


def send(task, *args, **options):
    """Sends a task that names `record_link` as its link_error."""
    return task.apply_async(args, link_error=tasks.record_link.s(), **options)


def test_a_task_that_returns_is_success_and_acknowledged(site):
    result = tasks.end.delay("a value")
    assert result.get(timeout=10) == "a value"
    assert (result.state, result.successful(), result.failed(), result.ready()) == ("SUCCESS", True, False, True)
    wait_hooks(site, result, ("on_success", "a"), ("after_return", "SUCCESS"))
    assert len(site.ledger("before_start", result.id)) == 1
    assert len(site.starts(result)) == 1
    site.wait_gone(result)
    assert site.ledger("on_failure", result.id) == []


def test_a_task_that_raises_is_failure_with_exception_and_traceback_and_acknowledged(site):
    result = send(tasks.end, "Sour")
    with pytest.raises(Sour) as caught:
        result.get(timeout=10)
    assert caught.value.args == ("too sour", 7)
    assert (result.state, result.failed()) == ("FAILURE", True)
    assert "_raise" in result.traceback
    assert "semantics_tasks.py" in result.traceback
    assert isinstance(result.result, Sour)
    wait_hooks(site, result, ("on_failure", "Sour"), ("after_return", "FAILURE"))
    wait_link(site, result)
    site.wait_gone(result)
    assert site.dead(result) is None
    site.wait_log("ERROR", f"end[{result.id}] failed")
    assert len(site.starts(result)) == 1


def test_with_acks_on_failure_off_a_failure_is_a_dead_letter(site):
    result = send(tasks.dead_end, "Sour")
    with pytest.raises(Sour):
        result.get(timeout=10)
    letter = wait_for(lambda: site.dead(result), "the dead letter")
    assert "Sour" in letter.reason
    wait_link(site, result)


def test_an_expected_error_is_logged_without_traceback_and_still_failure(site):
    result = tasks.expected_end.delay("Sour")
    with pytest.raises(Sour):
        result.get(timeout=10)
    line = site.wait_log(f"expected_end[{result.id}]", "failed")
    assert "INFO" in line
    assert result.state == "FAILURE"


def test_a_soft_limit_that_is_not_caught_is_failure_and_says_where_it_was(site):
    result = send(tasks.end, "spin", soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded) as caught:
        result.get(timeout=10)
    assert caught.value.seconds == 0.2
    assert "_spin" in result.traceback
    wait_hooks(site, result, ("on_failure", "SoftTimeLimitExceeded"), ("after_return", "FAILURE"))
    wait_link(site, result)
    site.wait_gone(result)


def test_a_soft_limit_is_retried_only_by_name(site):
    broad = tasks.broad_end.apply_async(("spin",), soft_time_limit=0.1)
    named = tasks.named_end.apply_async(("spin",), soft_time_limit=0.1)
    for result in (broad, named):
        with pytest.raises(SoftTimeLimitExceeded):
            result.get(timeout=10)
    assert (len(site.starts(broad)), len(site.starts(named))) == (1, 2)


@pytest.mark.parametrize("task", [tasks.end, tasks.early_end], ids=["late", "early"])
def test_a_hard_limit_is_failure_and_not_run_again(site, task):
    result = send(task, "spin", time_limit=0.3)
    with pytest.raises(TimeLimitExceeded) as caught:
        result.get(timeout=10)
    assert caught.value.seconds == 0.3
    wait_hooks(site, result, ("on_failure", "TimeLimitExceeded"), ("after_return", "FAILURE"))
    ((runner,),) = site.ledger("before_start", result.id)
    ((_, failer),) = site.ledger("on_failure", result.id)
    assert runner != failer, "the hooks ran in another child"
    wait_link(site, result)
    site.wait_gone(result)
    site.wait_log("ERROR", "killed at its time limit", task.name)
    assert len(site.starts(result)) == 1


def test_a_hard_limit_shows_the_stack_at_the_soft_limit(site):
    result = tasks.end.apply_async(("swallow",), soft_time_limit=0.2, time_limit=0.5)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    assert "_swallow" in result.traceback
    assert "_spin" in result.traceback


def test_with_acks_on_failure_off_a_hard_limit_is_a_dead_letter(site):
    result = send(tasks.dead_end, "spin", time_limit=0.3)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    wait_for(lambda: site.dead(result), "the dead letter")


def test_a_memory_limit_is_failure_that_names_use_and_limit(site):
    result = send(tasks.small_end, "eat")
    with pytest.raises(MemoryLimitExceeded) as caught:
        result.get(timeout=20)
    assert caught.value.used > caught.value.limit == 60_000_000
    wait_hooks(site, result, ("on_failure", "MemoryLimitExceeded"), ("after_return", "FAILURE"))
    wait_link(site, result)
    site.wait_gone(result)
    assert len(site.starts(result)) == 1


@pytest.mark.parametrize("how", ["SystemExit", "KeyboardInterrupt", "Strange"])
def test_what_would_end_a_program_is_failure_of_the_task_and_ends_no_client(site, how):
    before = {row["pid"] for row in site.engine.children()}
    result = send(tasks.end, how)
    with pytest.raises(tasks.Strange if how == "Strange" else RemoteError, match="odd" if how == "Strange" else how):
        result.get(timeout=10)
    assert type(result.result).__name__ == how
    assert result.state == "FAILURE"
    wait_hooks(site, result, ("on_failure", how))
    wait_link(site, result)
    site.wait_gone(result)
    pid = int(site.starts(result)[0][0])
    assert pid in before
    if how == "Strange":
        wait_for(lambda: pid not in {row["pid"] for row in site.engine.children()}, "its child to be replaced")
    else:
        assert pid in {row["pid"] for row in site.engine.children()}, "the child lives on"


CAUSES = {"SIGKILL": "SIGKILL", "SIGSEGV": "SIGSEGV", "SIGABRT": "SIGABRT", "exit 3": "exit status 3", "exit 0": "exit"}


@pytest.mark.parametrize("how", CAUSES)
def test_a_late_acked_task_whose_process_dies_runs_again_and_is_lost_at_the_third_crash(site, how):
    result = send(tasks.end, how)
    with pytest.raises(WorkerLostError, match=CAUSES[how]):
        result.get(timeout=20)
    assert [line[1:] for line in site.starts(result)] == [["1", "0"], ["2", "0"], ["3", "0"]]
    letter = wait_for(lambda: site.dead(result), "the dead letter")
    assert "crash limit" in letter.reason
    assert (letter.deliveries, letter.crashes) == (3, 3)
    wait_hooks(site, result, ("on_failure", "WorkerLostError"), ("after_return", "FAILURE"))
    wait_link(site, result)
    site.wait_log("ERROR", "lost", CAUSES[how], "runs again (crash 1)")
    assert result.state == "FAILURE"
    assert result.retries == 0


@pytest.mark.parametrize("how", CAUSES)
def test_an_early_acked_task_whose_process_dies_is_failure_at_once(site, how):
    result = send(tasks.early_end, how)
    with pytest.raises(WorkerLostError, match=CAUSES[how]):
        result.get(timeout=10)
    wait_hooks(site, result, ("on_failure", "WorkerLostError"), ("after_return", "FAILURE"))
    wait_link(site, result)
    assert len(site.starts(result)) == 1
    assert site.dead(result) is None


def test_a_task_whose_process_died_once_succeeds_without_a_retry_counted(site):
    assert tasks.die_once.delay("SIGKILL").get(timeout=10) == [2, 0]


def test_a_child_killed_from_outside_costs_one_run_of_one_task(site):
    bystander, victim = tasks.wait_at.delay("outside"), tasks.wait_at.delay("outside")
    site.wait_start(bystander)
    site.wait_start(victim)
    row = next(row for row in site.engine.children() if row["id"] == victim.id)
    os.kill(row["pid"], signal.SIGKILL)
    site.wait_start(victim, 2)
    assert victim.state == "PENDING", "its state stays as it was"
    site.open("outside")
    assert bystander.get(timeout=10) == victim.get(timeout=10) == "outside"
    assert (len(site.starts(bystander)), len(site.starts(victim))) == (1, 2)


@pytest.mark.parametrize("task", [tasks.end, tasks.dead_end], ids=["acks", "acks_on_failure_off"])
def test_a_result_that_cannot_be_carried_is_failure_naming_the_type_and_acknowledged(site, task):
    result = send(task, "Unfit")
    with pytest.raises(SerializationError, match="Unfit"):
        result.get(timeout=10)
    assert result.state == "FAILURE"
    wait_hooks(site, result, ("on_failure", "SerializationError"))
    wait_link(site, result)
    site.wait_gone(result)
    assert site.dead(result) is None


def test_an_unknown_task_is_failure_and_a_dead_letter(site):
    result = tasks.app.send_task("nobody.knows", (1,), link_error=tasks.record_link.s())
    with pytest.raises(NotRegistered, match=r"nobody\.knows"):
        result.get(timeout=10)
    letter = wait_for(lambda: site.dead(result), "the dead letter")
    assert letter.reason == "unknown task nobody.knows"
    wait_link(site, result)


def test_an_expired_task_is_revoked_and_never_runs(site):
    result = tasks.end.apply_async(("x",), countdown=0.2, expires=0.1)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=10)
    assert result.state == "REVOKED"
    site.wait_gone(result)
    assert site.starts(result) == []


def test_a_window_of_countdown_and_expires_is_kept(site):
    result = tasks.end.apply_async(("in time",), countdown=0.2, expires=20)
    assert result.get(timeout=10) == "in time"


def test_an_expired_task_is_recorded_also_when_its_result_is_ignored(site):
    result = tasks.errors_only.apply_async(("x",), countdown=0.2, expires=0.1)
    site.wait_state(tasks.app.AsyncResult(result.id), "REVOKED")


def test_ignore_acknowledges_and_writes_no_state(site):
    result = tasks.end.delay("Ignore")
    site.wait_start(result)
    site.wait_gone(result)
    assert result.state == "PENDING"
    assert len(site.starts(result)) == 1


def test_reject_is_failure_and_a_dead_letter_with_its_reason(site):
    result = send(tasks.end, "Reject")
    with pytest.raises(Reject):
        result.get(timeout=10)
    letter = wait_for(lambda: site.dead(result), "the dead letter")
    assert letter.reason == "not mine"
    wait_hooks(site, result, ("on_failure", "Reject"))
    wait_link(site, result)


def test_reject_with_requeue_goes_back_after_a_second_and_counts_a_delivery(site):
    result = tasks.requeue_once.delay()
    assert result.get(timeout=10) == [2, 0]
    first, second = (float(line[0]) for line in site.starts(result))
    assert 0.9 < second - first < 10


def test_failures_of_ignored_results_are_kept_only_if_asked_for(site):
    ignored = tasks.app.AsyncResult(tasks.end.apply_async(("Sour",), ignore_result=True).id)
    kept = tasks.app.AsyncResult(tasks.errors_only.delay("Sour").id)
    site.wait_state(kept, "FAILURE")
    site.wait_start(ignored)
    site.wait_gone(ignored)
    assert ignored.state == "PENDING"
    fine = tasks.app.AsyncResult(tasks.errors_only.delay("fine").id)
    site.wait_start(fine)
    site.wait_gone(fine)
    assert fine.state == "PENDING"
