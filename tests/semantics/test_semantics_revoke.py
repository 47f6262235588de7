"""Revoking: queued, delayed, retrying and running tasks, with a worker up and without, on every transport."""

from __future__ import annotations

import os

import pytest
import semantics_tasks as tasks

from engine import TaskRevokedError, TimeoutError  # noqa: A004 - the engine's own
from engine.testing.harness import wait_for


def assert_revoked(result, why="revoked"):
    with pytest.raises(TaskRevokedError, match=why):
        result.get(timeout=10)
    assert result.state == "REVOKED"


def fill(site, gate):
    """Keeps both children busy until the gate is opened."""
    blockers = [tasks.wait_at.delay(gate) for _ in range(2)]
    for one in blockers:
        site.wait_start(one)
    return blockers


@pytest.mark.needs("finds")
def test_a_queued_task_is_revoked_and_never_runs(site):
    blockers = fill(site, "queued")
    queued = [tasks.end.delay("x") for _ in range(30)]
    for result in queued:
        result.revoke()
    for result in queued:
        assert_revoked(result)
    site.open("queued")
    assert [one.get(timeout=10) for one in blockers] == ["queued"] * 2
    assert tasks.add.delay(1, 1).get(timeout=10) == 2
    assert not any(site.starts(result) for result in queued)
    assert not any(site.place(result) for result in queued)


@pytest.mark.needs("finds")
def test_a_delayed_task_is_revoked_at_once(site):
    result = tasks.end.apply_async(("x",), countdown=3600)
    assert site.place(result) == "delayed"
    result.revoke()
    assert result.state == "REVOKED", "on record when revoke() returns"
    assert site.place(result) is None
    assert_revoked(result)


@pytest.mark.needs("finds")
def test_a_retrying_task_is_revoked(site):
    result = tasks.retry_later.delay(3600)
    site.wait_state(result, "RETRY")
    wait_for(lambda: site.place(result) == "delayed", "the next run to be scheduled")
    result.revoke()
    assert result.state == "REVOKED", "on record when revoke() returns"
    assert_revoked(result)
    assert len(site.starts(result)) == 1


def test_revoking_a_running_task_without_terminate_lets_it_end(site):
    result = tasks.wait_at.delay("run on")
    site.wait_start(result)
    result.revoke()
    site.open("run on")
    assert result.get(timeout=10) == "run on"


def test_a_running_task_that_was_revoked_does_not_run_again_after_a_retry(site):
    result = tasks.retry_at_gate.delay("no more")
    site.wait_start(result)
    result.revoke()
    site.open("no more")
    assert_revoked(result)
    assert len(site.starts(result)) == 1


@pytest.mark.parametrize("task", [tasks.retry_in_an_hour, tasks.early_retry_in_an_hour], ids=["late", "early"])
def test_a_running_task_that_was_revoked_ends_when_it_retries_and_not_when_the_retry_is_due(site, task):
    result, other = task.delay(task.name), tasks.stubborn.delay("return")
    site.wait_start(result)
    site.wait_start(other)
    result.revoke()
    # Orders are heard in their order: when the second was carried out, the first was heard.
    other.revoke(terminate=True)
    assert_revoked(other)
    site.open(task.name)
    assert_revoked(result)
    assert len(site.starts(result)) == 1


def test_a_task_that_has_ended_is_left_as_it_is(site):
    result = tasks.add.delay(1, 2)
    assert result.get(timeout=10) == 3
    result.revoke(terminate=True)
    again = tasks.app.AsyncResult(result.id)
    assert (again.state, again.result) == ("SUCCESS", 3)


@pytest.mark.parametrize("then", ["return", "raise", "retry"])
def test_terminate_interrupts_a_running_task_which_ends_revoked_whatever_it_does(site, then):
    result = tasks.stubborn.delay(then)
    site.wait_start(result)
    result.revoke(terminate=True)
    assert_revoked(result)
    assert site.ledger("interrupted", result.id) == [["revoked"]]
    site.wait_gone(result)
    assert len(site.starts(result)) == 1


def test_terminate_kills_what_goes_on_all_the_same_and_its_child_is_replaced(site):
    result = tasks.deaf.delay()
    site.wait_start(result)
    pid = int(site.starts(result)[0][0])
    result.revoke(terminate=True)
    assert_revoked(result)
    assert site.ledger("ignored", result.id)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the child to be gone")
    wait_for(lambda: len([row for row in site.engine.children() if row["pid"]]) == 2, "another to be there")
    site.wait_gone(result)


@pytest.mark.needs("finds")
def test_a_task_revokes_others(site):
    delayed = [tasks.end.apply_async(("x",), countdown=3600) for _ in range(3)]
    tasks.revoke_others.delay([result.id for result in delayed]).get(timeout=10)
    for result in delayed:
        assert result.state == "REVOKED", "on record when revoke() returns, in a task as anywhere"
        assert site.place(result) is None


@pytest.mark.needs("finds")
def test_engine_revoke_many_at_once(site):
    results = [tasks.end.apply_async(("x",), countdown=3600) for _ in range(10)]
    tasks.app.revoke([result.id for result in results])
    assert {result.state for result in results} == {"REVOKED"}


@pytest.mark.needs("finds")
def test_a_revoked_task_whose_result_is_ignored_is_recorded_all_the_same(site):
    result = tasks.app.AsyncResult(tasks.end.apply_async(("x",), countdown=3600, ignore_result=True).id)
    result.revoke()
    assert result.state == "REVOKED"


def test_tasks_revoked_while_no_worker_was_up_never_run(durable):
    durable.configure()
    queued, delayed = tasks.end.delay("x"), tasks.end.apply_async(("x",), countdown=0.3)
    queued.revoke()
    delayed.revoke()
    later = tasks.app.AsyncResult("not sent yet")
    later.revoke()
    tasks.end.apply_async(("x",), task_id=later.id)
    durable.engine.start()
    for result in (queued, delayed, later):
        assert_revoked(result)
    assert tasks.add.apply_async((1, 2), countdown=0.4).get(timeout=10) == 3
    assert not any(durable.starts(result) for result in (queued, delayed, later))


def test_waiting_for_what_is_never_revoked_times_out(site):
    result = tasks.end.apply_async(("x",), countdown=3600)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.2)
    result.revoke()
