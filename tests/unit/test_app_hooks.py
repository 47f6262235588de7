"""The hooks of Task classes, in a run and for a child that died."""

from __future__ import annotations

from typing import Any

import pytest
from app_fakes import Bench, FakeRun

from engine import Interrupted, Task, WorkerLostError, states
from engine.app import ends
from engine.app.execute import run_hooks


class Noting(Task[..., Any]):
    """Notes its hooks."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def before_start(self, task_id: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        self.seen.append(("before_start", args, kwargs))
        if args == ["refuse"]:
            raise PermissionError("refused")

    def on_success(self, retval: Any, task_id: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        self.seen.append(("on_success", retval))

    def on_retry(self, exc: BaseException, task_id: str, args: list[Any], kwargs: dict[str, Any], einfo: Any) -> None:
        self.seen.append(("on_retry", type(exc).__name__))

    def on_failure(self, exc: BaseException, task_id: str, args: list[Any], kwargs: dict[str, Any], einfo: Any) -> None:
        self.seen.append(("on_failure", type(exc).__name__, str(einfo).strip().splitlines()[-1:]))

    def after_return(
        self, status: str, retval: Any, task_id: str, args: list[Any], kwargs: dict[str, Any], einfo: Any
    ) -> None:
        self.seen.append(("after_return", status))


def test_hooks_of_every_end(bench: Bench) -> None:
    run = FakeRun()

    def work_of(self: Any, how: str) -> Any:
        if how == "fail":
            raise ValueError(how)
        if how == "retry":
            self.retry(exc=KeyError(how))
        if how == "revoked":
            run.interrupted = "revoked"
            raise Interrupted("revoked")
        if how == "carry":
            return object()
        return how

    work: Any = bench.app.task(base=Noting, bind=True, default_retry_delay=0, max_retries=1)(work_of)

    def hooks(how: str) -> list[Any]:
        work.seen.clear()
        work.delay(how)
        bench.run(run)
        return [entry for entry in work.seen if entry[0] != "before_start"]

    assert hooks("fine") == [("on_success", "fine"), ("after_return", states.SUCCESS)]
    assert hooks("fail") == [("on_failure", "ValueError", ["ValueError: fail"]), ("after_return", states.FAILURE)]
    assert hooks("carry")[0][:2] == ("on_failure", "SerializationError")
    assert hooks("refuse")[0][:2] == ("on_failure", "PermissionError")
    assert hooks("retry") == [("on_retry", "KeyError"), ("after_return", states.RETRY)]
    bench.transport.envelopes.clear()
    assert hooks("revoked") == [("after_return", states.REVOKED)]


def test_what_a_hook_raises_changes_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Task[..., Any]):
        def on_success(self, retval: Any, task_id: str, args: list[Any], kwargs: dict[str, Any]) -> None:
            raise ValueError("in a hook")

    @bench.app.task(base=Raising)
    def work() -> int:
        return 1

    result = work.delay()
    bench.run()
    assert result.get(timeout=0) == 1
    assert "its on_success raised" in caplog.text


def test_hooks_for_a_child_that_died(bench: Bench) -> None:
    @bench.app.task(base=Noting)
    def work(x: int) -> None:
        raise AssertionError("must not run again")

    work.delay(5)
    message = bench.transport.take()
    run = FakeRun(claim=b"")
    end = ends.lost(message, run, work.info, "SIGSEGV", 3)
    assert work.info.hooks
    run_hooks(bench.app, work, message, end.state, end.body, run)
    assert isinstance(work, Noting)
    assert [entry[:2] for entry in work.seen] == [("on_failure", "WorkerLostError"), ("after_return", states.FAILURE)]


def test_hooks_that_cannot_be_run_are_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    @bench.app.task(base=Noting)
    def work(x: int) -> None:
        return None

    work.delay(5)
    run_hooks(bench.app, work, bench.transport.take(), states.FAILURE, b"broken", FakeRun())
    assert "its hooks could not be run" in caplog.text


def test_a_task_without_hooks_needs_no_second_child(bench: Bench) -> None:
    @bench.app.task
    def work() -> None:
        return None

    assert not work.info.hooks
    assert WorkerLostError("x").args == ("x",)
