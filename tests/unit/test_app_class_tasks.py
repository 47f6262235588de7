"""Tasks that are classes: ``app.register_task``."""

from __future__ import annotations

from typing import Any

import pytest
from app_fakes import Bench

from engine import ConfigError, Task


class Daily(Task[..., str]):
    """Writes the report of a day."""

    abstract = True
    max_retries = 7
    queue = "reports"

    def run(self, day: str, *, hour: int = 0) -> str:
        """Writes it."""
        return f"{self.name} {self.request.id is not None} {day} {hour}"


class Numbered(Daily):
    name = "reports.numbered"

    def __init__(self, number: int = 1) -> None:
        self.number = number

    def run(self, day: str, *, hour: int = 0) -> str:
        return f"{super().run(day, hour=hour)} {self.number}"


NAME = f"{__name__}.Daily"


@pytest.mark.parametrize("given", [Daily, Daily()], ids=["class", "instance"])
def test_a_class_with_run_is_a_task(bench: Bench, given: Any) -> None:
    task = bench.app.register_task(given)
    assert isinstance(task, Daily)
    assert bench.app.tasks[NAME] is task
    assert (task.name, task.max_retries, task.queue, task.__doc__) == (NAME, 7, "reports", Daily.__doc__)
    result = task.delay("monday", hour=3)
    bench.run_all()
    assert result.get(timeout=1) == f"{NAME} True monday 3"
    assert task("tuesday") == task.run("tuesday") == f"{NAME} False tuesday 0"


def test_an_instance_keeps_what_it_was_made_with_and_may_name_itself(bench: Bench) -> None:
    made = Numbered(9)
    assert bench.app.register_task(made) is made
    assert made.apply(("monday",)).get() == "reports.numbered True monday 0 9"
    assert bench.app.register_task(made) is made, "twice is once"


def test_arguments_are_checked_without_the_task_itself(bench: Bench) -> None:
    task = bench.app.register_task(Daily)
    with pytest.raises(TypeError, match=rf"{NAME}: missing a required argument: 'day'"):
        task.delay()


class Empty(Task[..., Any]):
    """Has no run."""


class Slow(Daily):
    time_limit = "soon"


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (Empty, TypeError, r"has def run\(self, ...\)"),
        (print, TypeError, r"has def run\(self, ...\)"),
        (dict, TypeError, r"has def run\(self, ...\)"),
        (Slow, ConfigError, r"Slow: time_limit"),
    ],
)
def test_what_is_no_task_is_refused(bench: Bench, given: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        bench.app.register_task(given)
