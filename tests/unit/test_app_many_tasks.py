"""Declaring takes as many steps for the last of many tasks as for the second."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest
from app_fakes import Bench

from engine import Engine, shared_task


def _steps(call: Callable[[], Any]) -> int:
    """Returns how many calls and lines of Python it takes. What is collected meanwhile, of other tests, is not its."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


@pytest.mark.parametrize("shared", [False, True])
def test_a_task_among_many_is_declared_in_as_many_steps_as_among_few(bench: Bench, shared: bool) -> None:
    app = Engine("many")

    def declare(number: int) -> None:
        decorate = shared_task if shared else app.task
        decorate(name=f"many.task_{number}", aliases=(f"task_{number}",))(lambda: number)

    declare(0)
    second = _steps(lambda: declare(1))
    for number in range(2, 500):
        declare(number)
    assert _steps(lambda: declare(500)) <= second
    assert app.find("many.task_7") is app.find("task_7") is not None
