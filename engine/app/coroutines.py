"""Runs ``async def`` tasks: one event loop per child, to the end of one task at a time.

A soft limit or an interruption comes up at the coroutine's await; behind the last one it comes too late. It cannot just
be raised by the signal handler, which may hit the event loop itself: the coroutine's asyncio task is cancelled, and the
cancellation, when it arrives at the await, is replaced by the exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.app.run import Run


class Loop:
    """The event loop of a child (or of one eager run)."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, function: Callable[..., Coroutine[Any, Any, Any]], run: Run, args: Any, kwargs: Any) -> Any:
        """Runs ``function(*args, **kwargs)`` to its end and returns what it returns."""
        if _is_in_a_loop():
            return _elsewhere(lambda: Loop.once(function, run, args, kwargs))
        driver = _Driver(function(*args, **kwargs))
        run.deliver = driver.deliver
        try:
            return self._runner.run(driver.run(), context=contextvars.copy_context())
        finally:
            run.deliver = None
            if not driver.has_ended:
                self._start_anew()

    @classmethod
    def once(cls, function: Callable[..., Coroutine[Any, Any, Any]], run: Run, args: Any, kwargs: Any) -> Any:
        """As `run`, in a loop of its own."""
        loop = cls()
        try:
            return loop.run(function, run, args, kwargs)
        finally:
            loop.close()

    def close(self) -> None:
        """Cancels what tasks have left running, and closes the loop."""
        self._runner.close()

    def _start_anew(self) -> None:
        """Something was raised through the event loop itself: nobody knows what state it is in. It is closed without
        being run again, as the runner would do to cancel what is left."""
        broken, self._runner = self._runner.get_loop(), asyncio.Runner()
        with contextlib.suppress(RuntimeError):  # it believes that it still runs
            broken.close()


class _Driver:
    """Drives a coroutine, and throws into it what is delivered."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.has_ended = False
        self._coroutine = coroutine
        self._delivered: BaseException | None = None
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> Any:
        self._task = task = asyncio.current_task()
        assert task is not None, "the runner made it"
        if self._delivered is not None and not task.cancelling():
            task.cancel()  # it was delivered while there was nothing to cancel
        try:
            value = await _Steps(self)
        finally:
            self.has_ended = True
        if self._delivered is not None:
            await _let_pass(task)
        return value

    def deliver(self, error: BaseException) -> None:
        """Called by the signal handler, in the loop's thread, between any two bytecodes. What comes behind the end of
        the coroutine comes too late."""
        if self.has_ended:
            return
        self._delivered = error
        if self._task is not None:
            self._task.cancel()
            self._task.get_loop().call_soon_threadsafe(_nothing)

    def translate(self, error: BaseException) -> BaseException:
        """Returns what was delivered in place of the cancellation that announces it."""
        delivered, self._delivered = self._delivered, None
        if delivered is None:
            return error
        if self._task is not None:
            self._task.uncancel()
        return delivered

    def step(self, error: BaseException | None, value: Any) -> Any:
        return self._coroutine.send(value) if error is None else self._coroutine.throw(error)


async def _let_pass(task: asyncio.Task[Any]) -> None:
    """Takes the cancellation that was delivered behind the last await of a coroutine: without this it would end the
    asyncio task in the place of what the coroutine has returned."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        task.uncancel()


class _Steps(Awaitable[Any]):
    def __init__(self, driver: _Driver) -> None:
        self._driver = driver

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        value: Any = None
        while True:
            try:
                awaited = self._driver.step(error, value)
            except StopIteration as stop:
                return stop.value
            error, value = None, None
            try:
                value = yield awaited
            except BaseException as raised:  # noqa: BLE001 - handed on to the coroutine
                error = self._driver.translate(raised) if isinstance(raised, asyncio.CancelledError) else raised


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _elsewhere(call: Callable[[], Any]) -> Any:
    """Calls in a thread of its own: a task that runs eagerly inside a coroutine cannot use the coroutine's loop."""
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, "engine-eager") as pool:
        return pool.submit(context.run, call).result()


def _nothing() -> None:
    """Wakes the loop."""
