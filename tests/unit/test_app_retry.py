"""How many retries, and when."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from app_fakes import Bench

from engine import ConfigError, MaxRetriesExceededError, Retry, Task, states
from engine.app.options import CodeOptions
from engine.app.retry import backoff
from engine.contract import Again


@pytest.mark.parametrize(("max_retries", "runs"), [(0, 1), (1, 2), (3, 4)])
def test_n_retries_are_n_plus_one_runs(bench: Bench, max_retries: int, runs: int) -> None:
    seen: list[int] = []

    @bench.app.task(bind=True, max_retries=max_retries, default_retry_delay=0)
    def fail(self: Any) -> None:
        seen.append(self.request.retries)
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise self.retry(exc=error) from None

    result = fail.delay()
    outcomes = bench.run_all()
    assert seen == list(range(runs))
    assert [outcome.state for outcome in outcomes] == [states.RETRY] * (runs - 1) + [states.FAILURE]
    with pytest.raises(KeyError, match="cause"):
        result.get(timeout=0)
    assert {outcome.id for outcome in outcomes} == {result.id}


def test_retries_without_end(bench: Bench) -> None:
    @bench.app.task(bind=True, max_retries=None, default_retry_delay=0)
    def stubborn(self: Any) -> int:
        if self.request.retries < 50:
            raise self.retry()
        return int(self.request.retries)

    result = stubborn.delay()
    bench.run_all()
    assert result.get(timeout=0) == 50


def test_without_exc_the_cause_is_what_was_being_handled(bench: Bench) -> None:
    @bench.app.task(bind=True, max_retries=0)
    def fail(self: Any) -> None:
        try:
            raise KeyError("cause")
        except KeyError:
            self.retry()

    result = fail.delay()
    bench.run()
    assert isinstance(result.result, MaxRetriesExceededError)
    assert "KeyError: 'cause'" in (result.traceback or "")


def test_exc_comes_from_what_was_being_handled(bench: Bench) -> None:
    @bench.app.task(bind=True, max_retries=0)
    def fail(self: Any) -> None:
        try:
            raise KeyError("first")
        except KeyError:
            self.retry(exc=ValueError("told"))

    result = fail.apply()
    assert isinstance(result.result, ValueError)
    assert isinstance(result.result.__cause__, KeyError)


def test_while_it_retries_the_state_says_why(bench: Bench) -> None:
    @bench.app.task(bind=True)
    def fail(self: Any) -> None:
        try:
            raise KeyError("cause")
        except KeyError as error:
            self.retry(exc=error, countdown=60)

    result = fail.delay()
    bench.run()
    assert result.state == states.RETRY
    assert not result.ready()
    assert isinstance(result.result, KeyError)
    assert "KeyError" in (result.traceback or "")
    with pytest.raises(TimeoutError):
        result.get(timeout=0)


def test_what_a_retry_keeps(bench: Bench) -> None:
    @bench.app.task(bind=True)
    def again(self: Any, x: int, y: int = 0) -> None:
        self.retry(countdown=5)

    @bench.app.task
    def note() -> None:
        return None

    again.apply_async(
        (1,),
        {"y": 2},
        queue="slow",
        priority=7,
        expires=100,
        time_limit=50,
        soft_time_limit=40,
        max_retries=9,
        ignore_result=True,
        headers={"tenant": "a"},
        link=note.si(),
        link_error=note.si(),
        shadow="shown",
        countdown=1,
    )
    before = bench.transport.envelopes[0]
    bench.run()
    after = bench.transport.take()
    first = type(after).decode(before.body)
    changed = {name for name in after.__struct_fields__ if bytes_of(after, name) != bytes_of(first, name)}
    assert changed == {"retries", "eta"}
    assert after.retries == 1
    assert after.eta is not None
    assert after.eta == pytest.approx(time.time() + 5, abs=2)


def bytes_of(message: Any, name: str) -> Any:
    value = getattr(message, name)
    return bytes(value) if name in ("args", "kwargs") else value


def test_what_a_retry_changes(bench: Bench) -> None:
    @bench.app.task(bind=True)
    def again(self: Any, x: int, y: int = 0) -> int:
        if self.request.retries == 0:
            raise self.retry(args=(5,), kwargs={"y": 6}, countdown=0, queue="other", priority=1, headers={"a": 1})
        return x + y

    result = again.delay(1)
    outcome = bench.run()
    assert isinstance(outcome.settlement, Again)
    assert outcome.settlement.envelope.queue == "other"
    assert outcome.settlement.envelope.priority == 1
    bench.run()
    assert result.get(timeout=0) == 11


def test_a_retry_changes_what_follows(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.app.task
    def note(*args: Any) -> None:
        seen.append(args)

    @bench.app.task(bind=True)
    def again(self: Any, fails: bool) -> int:
        if self.request.retries == 0:
            raise self.retry(countdown=0, link=[note.s("new"), note.si("alone")], link_error=note.s("failed"))
        if fails:
            raise ValueError("now")
        return 7

    again.apply_async((False,), link=note.s("old"))
    bench.run_all()
    assert seen == [(7, "new"), ("alone",)]
    seen.clear()
    failing = again.apply_async((True,), link_error=note.s("old"))
    bench.run_all()
    assert seen == [(failing.id, "failed")]


def test_an_unknown_option_of_a_retry(bench: Bench) -> None:
    @bench.app.task(bind=True)
    def again(self: Any) -> None:
        self.retry(cuntdown=5)

    result = again.delay()
    bench.run()
    with pytest.raises(TypeError, match='unknown option "cuntdown"'):
        result.get(timeout=0)


def test_a_retry_called_directly_raises_the_cause(bench: Bench) -> None:
    @bench.app.task(bind=True)
    def again(self: Task[..., Any], how: str) -> None:
        if how == "exc":
            self.retry(exc=KeyError("given"))
        if how == "handled":
            try:
                raise ValueError("handled")
            except ValueError:
                self.retry()
        self.retry()

    with pytest.raises(KeyError):
        again("exc")
    with pytest.raises(ValueError, match="handled"):
        again("handled")
    with pytest.raises(Retry):
        again("plain")


def due(bench: Bench, **call: Any) -> float:
    """Seconds until the retry of a run."""

    @bench.app.task(bind=True, name=f"due{len(bench.app.tasks)}", default_retry_delay="90s", **call.pop("options", {}))
    def again(self: Any) -> None:
        self.retry(**call)

    again.delay()
    now = time.time()
    outcome = bench.run()
    assert isinstance(outcome.settlement, Again)
    envelope = bench.transport.envelopes.pop()
    assert envelope.due is not None
    return envelope.due - now


def test_when_a_retry_is_due(bench: Bench) -> None:
    later = datetime.now(UTC) + timedelta(seconds=500)
    assert due(bench) == pytest.approx(90, abs=2)
    assert due(bench, countdown=7) == pytest.approx(7, abs=2)
    assert due(bench, countdown="2m") == pytest.approx(120, abs=2)
    assert due(bench, countdown=-5) == pytest.approx(0, abs=2)
    assert due(bench, eta=later) == pytest.approx(500, abs=2)
    assert due(bench, eta=later.replace(tzinfo=None)) == pytest.approx(500, abs=2), "naive is UTC"
    assert due(bench, eta=later, countdown=3) == pytest.approx(3, abs=2), "countdown beats eta"
    options = {"retry_backoff": 7, "retry_jitter": False}
    assert due(bench, options=options) == pytest.approx(7, abs=2)
    assert due(bench, options=options, countdown=1) == pytest.approx(1, abs=2)


@pytest.mark.parametrize(
    ("factor", "retries", "pause"),
    [(1, 0, 1), (1, 1, 2), (1, 5, 32), (3, 2, 12), (1, 10, 600), (1, 10**6, 600)],
)
def test_backoff_doubles_up_to_its_maximum(factor: int, retries: int, pause: float) -> None:
    code = CodeOptions(retry_backoff=factor, retry_jitter=False)
    assert backoff(code, retries) == pause


def test_jitter_is_full_and_in_whole_seconds() -> None:
    code = CodeOptions(retry_backoff=1)
    assert {backoff(code, 2) for _ in range(400)} == {0.0, 1.0, 2.0, 3.0, 4.0}


@pytest.mark.parametrize(("given", "factor"), [(True, 1), (False, 0), (0.5, 1), (3.7, 3)])
def test_backoff_factors(bench: Bench, given: float, factor: int) -> None:
    @bench.app.task(retry_backoff=given)
    def one() -> None:
        return None

    assert one.code.retry_backoff == factor


def test_autoretry_ends_with_the_exception_itself(bench: Bench) -> None:
    runs: list[int] = []

    @bench.app.task(autoretry_for=(OSError,), dont_autoretry_for=(PermissionError,), max_retries=2)
    def fail(kind: str) -> None:
        runs.append(1)
        raise {"os": OSError, "permission": PermissionError, "value": ValueError}[kind](kind)

    for kind, expected, count in (("os", OSError, 3), ("permission", PermissionError, 1), ("value", ValueError, 1)):
        runs.clear()
        result = fail.delay(kind)
        bench.run_all()
        assert type(result.result) is expected
        assert len(runs) == count


def test_retry_kwargs(bench: Bench) -> None:
    @bench.app.task(autoretry_for=[ValueError], retry_kwargs={"max_retries": 1, "countdown": 33})
    def fail() -> None:
        raise ValueError

    fail.delay()
    now = time.time()
    bench.run()
    assert bench.transport.envelopes[0].due == pytest.approx(now + 33, abs=2)
    assert bench.run().state == states.FAILURE
    wrong: Any = {"max_retry": 1}
    with pytest.raises(TypeError, match='did you mean "max_retries"'):
        bench.app.task(name="x", retry_kwargs=wrong)(lambda: None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retry_kwargs": {"max_retries": "3"}}, "task x: retry_kwargs: max_retries '3' is neither None"),
        ({"retry_kwargs": {"countdown": "soon"}}, "task x: retry_kwargs: 'soon' is not a duration"),
        ({"retry_backoff": "yes"}, "task x: retry_backoff 'yes' is neither"),
        ({"retry_backoff": -1}, "task x: retry_backoff -1 is neither"),
        ({"retry_backoff_max": "long"}, "task x: retry_backoff_max: 'long' is not a duration"),
    ],
)
def test_what_a_retry_could_not_use_is_an_error_where_it_is_declared(
    bench: Bench, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        bench.app.task(name="x", **options)(lambda: None)


@pytest.mark.parametrize("wrong", [{"countdown": math.inf}, {"max_retries": "3"}, {"queue": ""}, {"ignore_result": 1}])
def test_a_retry_with_a_value_that_does_not_fit_is_a_failure(bench: Bench, wrong: dict[str, Any]) -> None:
    @bench.app.task(bind=True)
    def again(self: Any) -> None:
        self.retry(**wrong)

    result = again.delay()
    assert bench.run().state == states.FAILURE
    assert isinstance(result.result, (ValueError, TypeError))
    assert bench.transport.envelopes == []


def test_the_call_sets_the_number_of_retries(bench: Bench) -> None:
    @bench.app.task(bind=True, max_retries=5, default_retry_delay=0)
    def again(self: Any) -> None:
        self.retry()

    for given, runs in ((0, 1), (1, 2)):
        again.apply_async(max_retries=given)
        assert len(bench.run_all()) == runs
    again.apply_async()
    assert len(bench.run_all()) == 6


def test_retry_max_retries_beats_the_call(bench: Bench) -> None:
    @bench.app.task(bind=True, max_retries=5, default_retry_delay=0)
    def again(self: Any) -> None:
        self.retry(max_retries=1)

    again.apply_async(max_retries=4)
    assert len(bench.run_all()) == 2
