"""Retries: exact counts, what they keep, what the record says, on every transport."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
import semantics_tasks as tasks
from semantics_tasks import Sour, Sweet

from engine import MaxRetriesExceededError, TaskRevokedError
from engine.testing.harness import wait_for


def runs(site, result):
    """Returns the retries that each run of a task saw."""
    return [int(line[-1]) for line in site.starts(result)]


def test_n_retries_are_n_plus_one_runs_then_max_retries_exceeded_with_its_cause(site):
    result = tasks.always_retry.delay()
    with pytest.raises(MaxRetriesExceededError):
        result.get(timeout=10)
    assert runs(site, result) == [0, 1, 2]
    assert "KeyError: 'handled'" in result.traceback, "the cause is the exception being handled"
    assert (result.state, result.retries) == ("FAILURE", 2)
    site.wait_gone(result)


def test_over_the_limit_the_exception_that_was_given_is_raised(site):
    result = tasks.always_retry.delay(give_exc=True)
    with pytest.raises(Sour, match="given"):
        result.get(timeout=10)
    assert runs(site, result) == [0, 1, 2]


@pytest.mark.parametrize(("limit", "expected"), [(0, [0]), (1, [0, 1]), (4, [0, 1, 2, 3, 4])])
def test_the_call_says_how_many_retries(site, limit, expected):
    result = tasks.always_retry.apply_async(max_retries=limit)
    with pytest.raises(MaxRetriesExceededError):
        result.get(timeout=10)
    assert runs(site, result) == expected


def test_none_is_for_ever(site):
    result = tasks.retry_until.apply_async((20,), max_retries=None)
    assert result.get(timeout=10) == 19
    assert runs(site, result) == list(range(20))


def test_except_exception_does_not_swallow_a_retry(site):
    result = tasks.retry_until.delay(3)
    assert result.get(timeout=10) == 2
    assert runs(site, result) == [0, 1, 2]


def test_a_retry_that_is_caught_wins_and_a_warning_says_so(site):
    result = tasks.always_retry.apply_async(kwargs={"catch": True}, max_retries=1)
    with pytest.raises(MaxRetriesExceededError):
        result.get(timeout=10)
    assert runs(site, result) == [0, 1]
    site.wait_log("WARNING", result.id, "the retry wins")


def test_a_retry_that_is_not_thrown_runs_again(site):
    assert tasks.retry_quietly.delay().get(timeout=10) == "second run"


def test_an_early_acked_task_retries_just_as_often(site):
    result = tasks.early_retry_until.delay(4)
    assert result.get(timeout=10) == 3
    assert runs(site, result) == [0, 1, 2, 3]


@pytest.mark.needs("finds")
def test_while_it_waits_the_state_is_retry_with_reason_and_traceback_and_get_goes_on_waiting(site):
    result = tasks.retry_later.delay(1.0)
    site.wait_state(result, "RETRY")
    assert isinstance(result.result, Sour)
    assert "not yet" in str(result.result)
    assert result.traceback is not None
    assert not result.ready()
    assert result.date_done is None
    assert site.place(result) == "delayed"
    assert result.get(timeout=10) == "done"
    assert runs(site, result) == [0, 1]


def test_a_retry_keeps_everything_of_the_call(site):
    before = time.time()
    result = tasks.retry_and_tell.apply_async(
        priority=3, expires=500, headers={"tenant": "x"}, time_limit=50, soft_time_limit=40, link=tasks.record_link.s()
    )
    sent = time.time()
    told = result.get(timeout=10)
    assert (told["id"], told["retries"], told["deliveries"]) == (result.id, 1, 1)
    assert (told["queue"], told["priority"], told["headers"]) == ("default", 3, {"tenant": "x"})
    assert told["timelimit"] == [50, 40]
    expires = datetime.fromisoformat(told["expires"]).timestamp()
    assert before + 500 <= expires <= sent + 500, "absolute: counted from the call, not from the retry"
    wait_for(lambda: len(site.ledger("link")) == 1, "the link to have run once")


def test_a_retry_changes_what_it_names(site):
    result = tasks.retry_with_changes.apply_async(("word",), priority=2, headers={"a": 1})
    assert result.get(timeout=10) == ["changed", 5, 7, {"a": 2}]


def test_deliveries_are_one_again_after_a_retry_and_a_crash_is_no_retry(site):
    result = tasks.die_then_retry.delay()
    assert result.get(timeout=20) == [1, 1]
    assert site.starts(result) == [["1", "0"], ["2", "0"], ["1", "1"]]


@pytest.mark.parametrize(
    ("kind", "error", "expected"), [("Sour", Sour, [0, 1, 2]), ("Sweet", Sweet, [0]), ("KeyError", KeyError, [0])]
)
def test_autoretry_is_for_its_classes_less_those_it_is_not_for(site, kind, error, expected):
    result = tasks.auto.delay(kind)
    with pytest.raises(error):
        result.get(timeout=10)
    assert type(result.result) is error
    assert runs(site, result) == expected


def test_a_backoff_is_waited_for(site):
    result = tasks.backed_off.delay()
    result.get(timeout=10)
    first, second = (float(line[0]) for line in site.starts(result))
    assert 0.99 < second - first < 10, "a factor below one is one"


@pytest.mark.needs("lists_scheduled")
def test_the_default_delay_is_three_minutes(site):
    result = tasks.retry_twice_slowly.delay()
    site.wait_state(result, "RETRY")
    (entry,) = [one for one in site.broker(lambda transport: transport.scheduled()) if one.id == result.id]
    assert 170 < entry.due - time.time() <= 180
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)


def test_hooks_of_a_retried_task(site):
    result = tasks.hooked_retry.delay()
    assert result.get(timeout=10) == 1
    wait_for(lambda: site.ledger("after_return", result.id) == [["RETRY"], ["SUCCESS"]], "after_return of both runs")
    assert site.ledger("on_retry", result.id) == [["Sour"]]
    assert site.ledger("on_failure", result.id) == []
    assert len(site.ledger("before_start", result.id)) == 2
