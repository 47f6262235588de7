"""``async def`` tasks."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from app_fakes import Bench, FakeRun

from engine import Interrupted, SoftTimeLimitExceeded, current_task


@pytest.fixture(autouse=True)
def closed(bench: Bench) -> Iterator[None]:
    """Ends the event loop with the test."""
    yield
    bench.app.child_stop()


class SignalRun(FakeRun):
    """Raises, or delivers, an exception from a signal handler, as a child does."""

    def __init__(self, error: BaseException, after: float) -> None:
        super().__init__()
        self.error = error
        self.after = after

    def invoke(self, call: Callable[[], Any]) -> Any:
        with handled(self.strike):
            timer = threading.Timer(self.after, lambda: os.kill(os.getpid(), signal.SIGUSR1))
            timer.start()
            try:
                return call()
            finally:
                timer.cancel()
                timer.join()

    def strike(self) -> None:
        if isinstance(self.error, Interrupted):
            self.interrupted = self.error.reason
        if self.deliver is not None:
            self.deliver(self.error)
        else:
            raise self.error


@contextmanager
def handled(strike: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: strike())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_coroutine_runs_to_its_end(bench: Bench) -> None:
    @bench.app.task(bind=True)
    async def work(self: Any, x: int) -> list[Any]:
        await asyncio.sleep(0)
        return [x, self.request.id, current_task.name, await asyncio.create_task(other(x))]

    async def other(x: int) -> str:
        return f"{x} {current_task.request.retries}"

    result = work.delay(3)
    bench.run()
    assert result.get(timeout=0) == [3, result.id, work.name, "3 0"]


def test_one_loop_serves_all_tasks_of_a_child(bench: Bench) -> None:
    loops: list[Any] = []

    @bench.app.task
    async def work() -> None:
        loops.append(asyncio.get_running_loop())

    work.delay()
    work.delay()
    bench.run_all()
    assert loops[0] is loops[1]


def test_exceptions_and_retries(bench: Bench) -> None:
    @bench.app.task(bind=True, default_retry_delay=0, max_retries=1)
    async def work(self: Any) -> None:
        await asyncio.sleep(0)
        self.retry(exc=KeyError("at last"))

    result = work.delay()
    assert [outcome.state for outcome in bench.run_all()] == ["RETRY", "FAILURE"]
    assert isinstance(result.result, KeyError)


def test_a_soft_limit_comes_up_at_the_await(bench: Bench) -> None:
    where: list[str] = []

    @bench.app.task
    async def work() -> str:
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded as limit:
            where.append("inner")
            await asyncio.sleep(0)
            return f"cleaned up after {limit.seconds}"
        return "not limited"

    result = work.delay()
    bench.run(SignalRun(SoftTimeLimitExceeded(0.5), 0.05))
    assert result.get(timeout=0) == "cleaned up after 0.5"
    assert where == ["inner"]
    again = work.delay()
    bench.run(SignalRun(SoftTimeLimitExceeded(0.7), 0.05))
    assert again.get(timeout=0) == "cleaned up after 0.7", "the loop is as good as before"


@pytest.mark.parametrize("first", [True, False])
def test_a_soft_limit_behind_the_last_await_comes_too_late(bench: Bench, first: bool) -> None:
    @bench.app.task
    async def work() -> int:
        if first:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGUSR1)
        return sum(range(1000))  # the handler has run by now

    for _ in range(2):  # also with the loop that the first one leaves
        result = work.delay()
        run = SignalRun(SoftTimeLimitExceeded(0.5), 60)
        bench.run(run)
        assert result.get(timeout=0) == 499500
        assert run.tainted is None


def test_a_soft_limit_before_the_first_step_comes_up_at_the_first_await(bench: Bench) -> None:
    @bench.app.task
    async def work() -> str:
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            return f"limited, {asyncio.current_task().cancelling()} to come"  # type: ignore[union-attr]
        return "not limited"

    class Early(SignalRun):
        """Strikes when the coroutine is made, and the event loop does not know of it yet."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "deliver" and value is not None:
                self.strike()

    result = work.delay()
    bench.run(Early(SoftTimeLimitExceeded(0.5), 60))
    assert result.get(timeout=0) == "limited, 0 to come"


def test_an_interruption_that_is_not_caught(bench: Bench) -> None:
    @bench.app.task
    async def work() -> None:
        await asyncio.gather(asyncio.sleep(30), asyncio.sleep(30))

    work.delay()
    outcome = bench.run(SignalRun(Interrupted("shutdown"), 0.05))
    assert type(outcome.settlement).__name__ == "Release"


def test_an_await_on_another_task_is_left_too(bench: Bench) -> None:
    @bench.app.task
    async def work() -> str:
        child = asyncio.create_task(asyncio.sleep(30))
        try:
            await child
        except SoftTimeLimitExceeded:
            return f"cancelled: {child.cancelled()}"
        return "no"

    result = work.delay()
    bench.run(SignalRun(SoftTimeLimitExceeded(1), 0.05))
    assert result.get(timeout=0) == "cancelled: True"


def test_a_cancellation_of_its_own_stays_one(bench: Bench) -> None:
    @bench.app.task
    async def work() -> str:
        task = asyncio.create_task(asyncio.sleep(30))
        asyncio.get_running_loop().call_soon(task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "no"

    result = work.delay()
    bench.run()
    assert result.get(timeout=0) == "cancelled"


def test_an_exception_through_the_loop_costs_only_the_loop(bench: Bench) -> None:
    @bench.app.task
    async def work(how: str) -> str:
        if how == "exit":
            raise SystemExit(3)
        return how

    failed = work.delay("exit")
    bench.run()
    assert failed.failed()
    fine = work.delay("fine")
    bench.run()
    assert fine.get(timeout=0) == "fine"


def test_eager(bench: Bench) -> None:
    @bench.app.task
    async def work(x: int) -> int:
        await asyncio.sleep(0)
        return x

    assert work.apply((3,)).get() == 3
    assert asyncio.run(work(4)) == 4

    async def inside() -> int:
        return work.apply((5,)).get()

    assert asyncio.run(inside()) == 5, "also where a loop is running already"
