"""Names of Celery's that are not here: the error says what to write instead."""

from __future__ import annotations

from typing import Any

import pytest
from app_fakes import Bench

import engine
from engine.app import absent


@pytest.mark.parametrize("name", sorted(absent.EXPORTS))
def test_what_celery_exports_and_is_not_here_is_answered_with_what_to_write(name: str) -> None:
    with pytest.raises(ImportError, match=f"cannot import name '{name}' from 'engine': ") as caught:
        exec(f"from engine import {name}")
    assert absent.EXPORTS[name] in str(caught.value)
    assert name not in engine.__all__


def test_other_names_are_attribute_errors_as_everywhere(bench: Bench) -> None:
    assert not hasattr(engine, "nothing_like_it")
    with pytest.raises(ImportError, match="nothing_like_it"):
        exec("from engine import nothing_like_it")
    assert not hasattr(bench.app, "nothing_like_it")


@pytest.mark.parametrize("name", sorted(absent.OF_THE_APP))
def test_what_an_app_of_celery_has_is_answered_with_what_to_write(bench: Bench, name: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(bench.app, name)
    assert absent.OF_THE_APP[name] in str(caught.value)


@pytest.mark.parametrize("name", sorted(absent.OF_A_TASK))
def test_what_a_task_of_celery_has_is_answered_with_what_to_write(bench: Bench, name: str) -> None:
    @bench.app.task
    def one() -> None:
        return None

    with pytest.raises(AttributeError) as caught:
        getattr(one, name)
    assert absent.OF_A_TASK[name] in str(caught.value)


@pytest.mark.parametrize("name", sorted(absent.OPTIONS))
def test_options_of_celery_that_are_not_here_are_answered_with_what_to_write(bench: Bench, name: str) -> None:
    @bench.app.task
    def one() -> None:
        return None

    options: Any = {name: "x"}
    with pytest.raises(TypeError) as caught:
        one.apply_async(**options)
    assert absent.OPTIONS[name] in str(caught.value)
    with pytest.raises(TypeError, match=r"link=b\.s\(\)"):
        _ = one.s() | one.s()
