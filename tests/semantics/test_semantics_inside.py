"""Inside a task, and what is known of it outside: states, limits, logs, results, on every transport."""

from __future__ import annotations

import pytest
import semantics_tasks as tasks

from engine import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from engine.testing.harness import wait_for


@pytest.mark.needs("finds")
def test_nothing_is_known_of_an_id_that_nobody_sent(site):
    result = tasks.app.AsyncResult("nobody sent this")
    assert (result.state, result.known, result.ready(), result.result) == ("PENDING", False, False, None)


@pytest.mark.needs("finds")
def test_known_tells_a_waiting_task_from_an_unknown_one(site):
    result = tasks.add.apply_async((1, 2), countdown=3600)
    assert (result.state, result.known) == ("PENDING", True)
    result.revoke()
    assert result.known is True


@pytest.mark.needs("finds")
def test_forget_removes_what_is_kept(site):
    result = tasks.add.delay(1, 2)
    assert result.get(timeout=10) == 3
    site.wait_gone(result)
    result.forget()
    assert (result.state, result.known) == ("PENDING", False)


def test_a_result_is_equal_to_its_id_and_tells_when_it_was_done(site):
    result = tasks.add.delay(1, 2)
    result.get(timeout=10)
    assert result == result.id
    assert result == tasks.app.AsyncResult(result.id)
    assert result.date_done is not None
    assert result.date_done.tzinfo is not None


def test_started_is_written_with_pid_and_hostname_if_asked_for(site):
    result = tasks.tracked.delay("tracked")
    site.wait_state(result, "STARTED")
    assert result.info["pid"] in {row["pid"] for row in site.engine.children()}
    assert result.info["hostname"]
    assert not result.ready()
    site.open("tracked")
    assert result.get(timeout=10) == "ended"
    assert result.state == "SUCCESS"


def test_without_track_started_a_running_task_stays_pending(site):
    result = tasks.wait_at.delay("untracked")
    site.wait_start(result)
    assert result.state == "PENDING"
    site.open("untracked")
    result.get(timeout=10)


@pytest.mark.parametrize("state", ["PROGRESS", "SUCCESS", "FAILURE", "REVOKED", "PENDING"])
def test_states_are_written_in_order_and_are_never_final(site, state):
    result = tasks.states.delay(state)
    wait_for(lambda: site.ledger("told", result.id), "all states to be written")
    wait_for(lambda: result.info == {"number": 50}, "the last one to be on record")
    assert result.state == state
    assert not result.ready()
    assert not result.successful()
    assert not result.failed()
    assert result.date_done is None
    site.open(result.id)
    assert result.get(timeout=10) == "the end"
    assert result.state == "SUCCESS"


@pytest.mark.parametrize(
    ("then", "error"), [("Sour", tasks.Sour), ("exit 3", WorkerLostError)], ids=["raises", "its process dies"]
)
def test_a_failure_replaces_a_state_called_success(site, then, error):
    result = tasks.states.delay("SUCCESS", then)
    site.open(result.id)
    with pytest.raises(error):
        result.get(timeout=10)
    assert result.state == "FAILURE"


def test_a_state_stays_while_its_task_is_killed_at_a_limit_until_that_is_on_record(site):
    result = tasks.states.apply_async(("PROGRESS",), time_limit=0.4)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    assert result.state == "FAILURE"


@pytest.mark.needs("finds")
def test_states_of_an_ignored_result_are_removed_at_its_end(site):
    sent = tasks.quiet_states.delay()
    assert sent.get() is None, "at once: nothing will be kept"
    result = tasks.app.AsyncResult(sent.id)
    site.wait_state(result, "STEP")
    site.open(result.id)
    site.wait_state(result, "PENDING")
    site.wait_gone(result)
    assert result.known is False


@pytest.mark.needs("finds")
def test_an_ignored_result_is_not_kept(site):
    sent = tasks.tell.apply_async(ignore_result=True)
    site.wait_gone(sent)
    assert tasks.app.AsyncResult(sent.id).known is False


def test_get_inside_a_task_is_refused_with_what_to_do_instead(site):
    assert "link=" in tasks.join.delay().get(timeout=10)
    assert tasks.join.delay(allow=True).get(timeout=15) == 5


def test_log_lines_of_a_task_carry_its_id_and_name(site):
    result = tasks.speak.delay()
    result.get(timeout=10)
    for text in ("here I am", "me too"):
        line = site.wait_log(text, result.id)
        assert "semantics_tasks.speak" in line
        assert "child" in line


def test_what_a_task_prints_goes_line_by_line_where_the_engines_output_goes(site):
    result = tasks.say.delay("said so")
    assert "said so" in site.wait_log("said so"), "while it runs: nobody had to flush"
    assert not result.ready()
    site.open("said so")
    result.get(timeout=10)


def test_a_function_that_is_blocked_in_c_sees_its_soft_limit_when_that_ends(site):
    result = tasks.blocked_in_c.apply_async(soft_time_limit=0.1, time_limit=60)
    assert result.get(timeout=30) == "limit seen"


def test_a_shield_defers_the_soft_limit_to_its_end(site):
    result = tasks.shielded.apply_async((0.6,), soft_time_limit=0.2, time_limit=20)
    assert result.get(timeout=10) == ["whole", "then the limit"]


def test_the_hard_limit_does_not_wait_for_a_shield(site):
    result = tasks.shielded.apply_async((60,), time_limit=0.4)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)


def test_time_left_is_until_the_next_limit_and_current_task_is_the_task(site):
    left, name, same = tasks.time_left.apply_async(soft_time_limit=40, time_limit=50).get(timeout=10)
    assert 30 < left <= 40
    assert (name, same) == ("semantics_tasks.time_left", True)
    assert tasks.time_left.delay().get(timeout=10)[0] is None


def test_a_task_called_as_a_function_is_called_directly(site):
    assert tasks.tell.run()["called_directly"] is True
    assert tasks.tell()["called_directly"] is True
    assert tasks.add(2, 3) == 5


def test_apply_runs_the_same_code_here_and_now(site, monkeypatch):
    monkeypatch.chdir(site.folder)
    assert tasks.add.apply((2, 3)).get() == 5
    assert tasks.retry_until.apply((3,)).get() == 2
    with pytest.raises(tasks.Sour):
        tasks.auto.apply(("Sour",), throw=True)


def test_a_soft_limit_names_its_seconds(site):
    with pytest.raises(SoftTimeLimitExceeded, match=r"0\.1 s"):
        tasks.end.apply_async(("spin",), soft_time_limit=0.1).get(timeout=10)
