"""What an app has around every task, and sending on commit where there is no Django."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from app_fakes import Bench

from engine import ConfigError, states


def test_what_is_around_every_task_sees_it_from_begin_to_end(bench: Bench) -> None:
    seen: list[str] = []

    def around(call: Callable[[], Any]) -> Any:
        seen.append("before")
        try:
            return call()
        finally:
            seen.append("after")

    @bench.app.task
    def work(fail: bool) -> str:
        seen.append("work")
        if fail:
            raise ValueError("no")
        return "done"

    bench.app.around = around
    result, failed = work.delay(False), work.delay(True)
    bench.run_all()
    assert result.get(timeout=0) == "done"
    assert failed.state == states.FAILURE
    assert seen == ["before", "work", "after"] * 2


def test_what_runs_here_and_now_is_left_alone(bench: Bench) -> None:
    def around(call: Callable[[], Any]) -> Any:
        raise AssertionError("only for workers")

    @bench.app.task
    def work() -> str:
        return "done"

    bench.app.around = around
    assert work.apply().get() == "done"


def test_an_async_task_has_it_too(bench: Bench) -> None:
    seen: list[str] = []

    def around(call: Callable[[], Any]) -> Any:
        result = call()
        seen.append(f"after {result}")
        return result

    @bench.app.task
    async def work() -> str:
        return "done"

    bench.app.around = around
    work.delay()
    bench.run()
    assert seen == ["after done"]
    bench.app.child_stop()  # ends the event loop


def test_without_django_there_is_no_commit_to_wait_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "django.db.transaction", None)

    @bench.app.task
    def work(key: int) -> None:
        """Does nothing."""

    with pytest.raises(ConfigError, match=r"use delay\(\)"):
        work.delay_on_commit(1)
    with pytest.raises(TypeError, match="key"):
        work.apply_async_on_commit(())
    with pytest.raises(TypeError, match="countdwn"):
        work.apply_async_on_commit((1,), countdwn=3)  # type: ignore[call-arg]
    assert bench.transport.batches == []
