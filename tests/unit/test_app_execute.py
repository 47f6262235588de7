"""Ends of a task, as a child reports them."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from app_fakes import Bench, FakeRun

from engine import (
    Ignore,
    Interrupted,
    MaxRetriesExceededError,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    WorkerLostError,
    states,
)
from engine.contract import Ack, Again, Body, Dead, Record, Release


def body(outcome: Any) -> Body:
    return msgspec.json.decode(outcome.settlement.record.body, type=Body)


def test_a_value(bench: Bench) -> None:
    @bench.app.task
    def add(x: int, y: int) -> int:
        return x + y

    result = add.delay(1, 2)
    outcome = bench.run()
    assert outcome.settlement == Ack(b"claim", outcome.settlement.record)
    assert (outcome.state, outcome.id, outcome.task) == (states.SUCCESS, result.id, add.name)
    assert (outcome.sequence, outcome.run, outcome.queue, outcome.deliveries) == (7, 3, "default", 1)
    assert result.get(timeout=0) == 3
    assert body(outcome).worker == "worker-1"


def test_an_exception(bench: Bench) -> None:
    @bench.app.task
    def fail() -> None:
        raise KeyError("missing")

    result = fail.delay()
    outcome = bench.run()
    assert isinstance(outcome.settlement, Ack)
    assert outcome.state == states.FAILURE
    assert outcome.reason == "KeyError: 'missing'"
    with pytest.raises(KeyError, match="missing") as caught:
        result.get(timeout=0)
    assert caught.value.args == ("missing",)
    assert 'raise KeyError("missing")' in (result.traceback or "")
    assert "app/execute.py" not in (result.traceback or "")


def test_a_failure_is_dead_lettered_without_acks_on_failure(bench: Bench) -> None:
    @bench.app.task(acks_on_failure_or_timeout=False)
    def fail() -> None:
        raise ValueError("no")

    fail.delay()
    outcome = bench.run()
    assert isinstance(outcome.settlement, Dead)
    assert outcome.settlement.reason == "ValueError: no"
    fail.delay()
    assert isinstance(bench.run(FakeRun(claim=b"")).settlement, Ack), "there is nothing left to dead-letter"


def test_a_result_that_cannot_be_carried(bench: Bench) -> None:
    @bench.app.task(acks_on_failure_or_timeout=False)
    def opaque() -> object:
        return [object()]

    result = opaque.delay()
    outcome = bench.run()
    assert isinstance(outcome.settlement, Ack), "another run would not help"
    assert result.state == states.FAILURE
    assert "object" in str(result.result)
    assert type(result.result).__name__ == "SerializationError"


def test_a_result_that_is_too_large(bench: Bench) -> None:
    @bench.app.task
    def large() -> str:
        return "x" * 1000

    bench.app.settings.worker.max_result = type(bench.app.settings.worker.max_result)(100)
    result = large.delay()
    bench.run()
    assert result.state == states.FAILURE
    assert "max_result allows 100" in str(result.result)


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_a_program_ends_only_the_task(bench: Bench, raised: BaseException) -> None:
    @bench.app.task
    def leave() -> None:
        raise raised

    result = leave.delay()
    run = FakeRun()
    assert bench.run(run).state == states.FAILURE
    assert type(result.result) is type(raised)
    assert run.tainted is None


def test_an_unknown_base_exception_costs_the_child(bench: Bench) -> None:
    class Strange(BaseException):
        pass

    @bench.app.task
    def strange() -> None:
        raise Strange

    strange.delay()
    run = FakeRun()
    assert bench.run(run).state == states.FAILURE
    assert run.tainted == "raised Strange"


def test_a_soft_limit_that_is_not_caught(bench: Bench) -> None:
    @bench.app.task(autoretry_for=(Exception,))
    def slow() -> None:
        raise SoftTimeLimitExceeded(1.5)

    result = slow.delay()
    run = FakeRun()
    assert bench.run(run).state == states.FAILURE
    assert isinstance(result.result, SoftTimeLimitExceeded)
    assert result.result.seconds == 1.5
    assert run.tainted is None


def test_a_soft_limit_is_retried_only_by_name(bench: Bench) -> None:
    @bench.app.task(autoretry_for=[SoftTimeLimitExceeded])
    def slow() -> None:
        raise SoftTimeLimitExceeded(1.5)

    slow.delay()
    assert isinstance(bench.run().settlement, Again)


def test_ignore(bench: Bench) -> None:
    @bench.app.task
    def ignore() -> None:
        raise Ignore

    result = ignore.delay()
    outcome = bench.run()
    assert outcome.settlement == Ack(b"claim", None)
    assert result.state == states.PENDING


def test_expired_in_the_child(bench: Bench) -> None:
    called = []

    @bench.app.task(ignore_result=True)
    def late() -> None:
        called.append(1)

    late.apply_async(expires=-1)
    outcome = bench.run()
    assert outcome.state == states.REVOKED
    assert not outcome.started
    assert not called
    result = bench.app.AsyncResult(outcome.id)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=0)


def test_ignored_results_leave_nothing(bench: Bench) -> None:
    @bench.app.task(bind=True, ignore_result=True)
    def silent(self: Any, how: str) -> int:
        if how == "fail":
            raise ValueError(how)
        if how == "state":
            self.update_state("BUSY", meta={"done": 1})
        return 1

    silent.delay("return")
    assert bench.run().settlement == Ack(b"claim", None)
    silent.delay("fail")
    assert bench.run().settlement == Ack(b"claim", None)
    result = bench.app.AsyncResult(silent.delay("state").id)
    outcome = bench.run()
    assert outcome.settlement.record is not None
    assert not outcome.settlement.record.keep
    assert result.state == states.PENDING


@pytest.mark.parametrize("end", ["retry", "ignore", "shutdown", "redelivered"])
def test_no_state_outlives_a_task_whose_result_is_ignored(bench: Bench, end: str) -> None:
    run = FakeRun(deliveries=2 if end == "redelivered" else 1)

    @bench.app.task(bind=True, ignore_result=True)
    def silent(self: Any) -> None:
        if end == "redelivered":
            return
        self.update_state("BUSY")
        if end == "retry":
            self.retry()
        if end == "ignore":
            raise Ignore
        run.interrupted = "shutdown"

    result = bench.app.AsyncResult(silent.delay().id)
    if end == "redelivered":
        bench.results.store([Record(result.id, "BUSY", 0.0, 0, 1, b'{"state":"BUSY","task":"t","date":1}')])
        assert result.state == "BUSY"
    bench.run(run)
    assert result.state == states.PENDING


def test_errors_are_stored_even_if_results_are_ignored(bench: Bench) -> None:
    @bench.app.task(ignore_result=True, store_errors_even_if_ignored=True)
    def fail() -> None:
        raise ValueError("kept")

    id = fail.delay().id
    bench.run()
    assert bench.app.AsyncResult(id).failed()


def test_the_call_decides_whether_a_result_is_kept(bench: Bench) -> None:
    @bench.app.task(ignore_result=True)
    def one() -> int:
        return 1

    kept = one.apply_async(ignore_result=False)
    bench.run()
    assert kept.get(timeout=0) == 1


@pytest.mark.parametrize("args", [b"[1]", b"[1,2,3]", b'{"x": 1}', b"3"])
def test_arguments_that_do_not_fit_are_a_dead_letter(bench: Bench, args: bytes) -> None:
    @bench.app.task
    def two(x: int, y: int) -> None:
        raise AssertionError("must not run")

    two.delay(1, 2)
    envelope = bench.transport.envelopes.pop()
    broken = envelope.body.replace(b'"args":[1,2]', b'"args":' + args)
    bench.transport.envelopes.append(msgspec.structs.replace(envelope, body=broken))
    outcome = bench.run()
    assert isinstance(outcome.settlement, Dead)
    assert outcome.settlement.reason.startswith("arguments do not fit: TypeError")
    assert bench.app.AsyncResult(outcome.id).failed()


def test_a_keyword_that_is_not_known_in_the_worker(bench: Bench) -> None:
    @bench.app.task(typing=False)
    def one(x: int) -> int:
        return x

    one.delay(1, y=2)  # type: ignore[call-arg]
    outcome = bench.run()
    assert isinstance(outcome.settlement, Dead)
    assert "unexpected keyword argument 'y'" in outcome.settlement.reason


def test_a_serializer_that_is_not_accepted(bench: Bench) -> None:
    @bench.app.task(serializer="pickle")
    def one(x: Any) -> Any:
        return x

    one.delay({1, 2})
    outcome = bench.run()
    assert isinstance(outcome.settlement, Dead)
    assert "accept" in outcome.settlement.reason


@pytest.mark.parametrize("then", ["return", "raise", "retry", "ignore"])
def test_shutdown_releases_whatever_the_function_does(bench: Bench, then: str) -> None:
    run = FakeRun()

    @bench.app.task(bind=True)
    def interrupted(self: Any) -> str:
        run.interrupted = "shutdown"
        if then == "raise":
            raise ValueError(then)
        if then == "retry":
            raise self.retry()
        if then == "ignore":
            raise Ignore
        return then

    result = interrupted.delay()
    outcome = bench.run(run)
    assert outcome.settlement == Release(b"claim", counts="nothing", record=None)
    assert result.state == states.PENDING


def test_shutdown_of_an_early_acked_task(bench: Bench) -> None:
    run = FakeRun(claim=b"")

    @bench.app.task
    def interrupted() -> None:
        run.interrupted = "shutdown"
        raise Interrupted("shutdown")

    result = interrupted.delay()
    bench.run(run)
    assert isinstance(result.result, WorkerLostError)
    assert result.result.args == ("shutdown",)


def test_a_revoked_run_ends_revoked(bench: Bench) -> None:
    run = FakeRun()

    @bench.app.task
    def interrupted() -> int:
        run.interrupted = "revoked"
        return 1

    result = interrupted.delay()
    outcome = bench.run(run)
    assert isinstance(outcome.settlement, Ack)
    assert result.state == states.REVOKED


def test_started_is_recorded_in_order(bench: Bench) -> None:
    @bench.app.task(bind=True, track_started=True)
    def tracked(self: Any) -> int:
        self.update_state(state="HALF", meta={"of": 2})
        return 1

    result = tracked.delay()
    run = FakeRun()
    bench.run(run)
    assert [record.state for record in run.emitted] == [states.STARTED, "HALF"]
    assert not any(record.final for record in run.emitted)
    first = msgspec.json.decode(run.emitted[0].body)
    assert first["result"] == {"pid": os.getpid(), "hostname": "host"}
    assert result.get(timeout=0) == 1


@pytest.mark.parametrize("how", ["return", "raise", "retry"])
def test_every_record_of_a_run_says_of_which_delivery_it_is(bench: Bench, how: str) -> None:
    """By it an older run, which was taken for dead, cannot overwrite what a newer one wrote."""

    @bench.app.task(bind=True, track_started=True)
    def work(self: Any) -> None:
        self.update_state("HALF")
        if how == "retry":
            raise self.retry()
        if how == "raise":
            raise ValueError("no")

    work.delay()
    run = FakeRun(deliveries=3)
    record = bench.run(run).settlement.record
    assert record is not None
    assert [one.deliveries for one in [*run.emitted, record]] == [3, 3, 3]


def test_a_state_called_success_is_not_the_end(bench: Bench) -> None:
    @bench.app.task(bind=True)
    def boast(self: Any) -> None:
        self.update_state(state=states.SUCCESS, meta=1)
        raise ValueError("after all")

    result = boast.delay()
    run = FakeRun()
    bench.run(run)
    assert not run.emitted[0].final
    assert result.state == states.FAILURE


def test_a_fork_in_a_task_does_not_report(bench: Bench) -> None:
    read, write = os.pipe()

    @bench.app.task
    def forks() -> int:
        return os.fork()

    forks.delay()
    outcome = bench.run()
    os.write(write, b"x")
    os.close(write)
    _, status = os.waitpid(int(bytes(body(outcome).result)), 0)  # type: ignore[arg-type]
    assert os.read(read, 10) == b"x", "only this process came back"
    os.close(read)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_retry_that_is_caught_still_wins(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    @bench.app.task(bind=True, default_retry_delay=0)
    def stubborn(self: Any) -> int:
        try:
            self.retry()
        except Retry:
            return 1
        return 2

    stubborn.delay()
    assert isinstance(bench.run().settlement, Again)
    assert "the retry wins" in caplog.text


def test_a_retry_that_is_not_raised(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    @bench.app.task(bind=True, default_retry_delay=0)
    def polite(self: Any) -> None:
        self.retry(throw=False)

    polite.delay()
    assert isinstance(bench.run().settlement, Again)
    assert "the retry wins" not in caplog.text


def test_retry_is_not_swallowed_by_except_exception(bench: Bench) -> None:
    @bench.app.task(bind=True, max_retries=1, default_retry_delay=0)
    def careful(self: Any) -> str:
        try:
            raise self.retry()
        except Exception:  # noqa: BLE001 - what users write
            return "swallowed"

    result = careful.delay()
    assert isinstance(bench.run().settlement, Again)
    bench.run()
    assert result.get(timeout=0) == "swallowed", "MaxRetriesExceededError is an Exception"


def test_retry_raised_by_hand(bench: Bench) -> None:
    @bench.app.task(max_retries=1)
    def by_hand() -> None:
        raise Retry

    result = by_hand.delay()
    assert isinstance(bench.run().settlement, Again)
    bench.run()
    assert isinstance(result.result, MaxRetriesExceededError)


def test_an_early_acked_retry_only_publishes(bench: Bench) -> None:
    @bench.app.task(bind=True)
    def again(self: Any) -> None:
        self.retry()

    result = again.delay()
    outcome = bench.run(FakeRun(claim=b""))
    assert isinstance(outcome.settlement, Again)
    assert outcome.settlement.claim == b""
    assert result.state == states.RETRY
    assert bench.transport.take().retries == 1


def test_deep_recursion(bench: Bench) -> None:
    @bench.app.task
    def deep() -> None:
        def down(n: int) -> int:
            return down(n + 1)

        down(0)

    result = deep.delay()
    bench.run()
    assert isinstance(result.result, RecursionError)
    assert len(result.traceback or "") < 70_000


def test_execute_never_raises(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    @bench.app.task
    def one() -> int:
        return 1

    one.delay()
    monkeypatch.setattr("engine.app.execute.Ack", None)
    run = FakeRun()
    outcome = bench.run(run)
    assert outcome.state == states.FAILURE
    assert run.tainted is not None
