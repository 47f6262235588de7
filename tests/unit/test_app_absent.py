"""Names of Celery's that are not here: the error says what to write instead."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from app_fakes import Bench

import engine
from engine.app import absent
from engine.app.options import CALL_NAMES


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
        bench.app.task(**options)(print) if name in CALL_NAMES else one.apply_async(**options)
    assert absent.OPTIONS[name] in str(caught.value)
    with pytest.raises(TypeError, match=r"link=b\.s\(\)"):
        _ = one.s() | one.s()


@pytest.mark.parametrize("name", sorted(absent.OF_AN_ENGINE))
def test_arguments_of_celerys_app_are_answered_with_what_to_write(name: str) -> None:
    given: Any = {name: "x"}
    with pytest.raises(TypeError) as caught:
        engine.Engine("shop", **given)
    assert absent.OF_AN_ENGINE[name] in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"task_acks_late": True}, "[tasks] acks_late = true"),
        ({"task_reject_on_worker_lost": True}, "it is always so with acks_late"),
        ({"brokr": "redis://"}, 'did you mean "broker"?'),
    ],
)
def test_settings_of_celery_as_arguments_of_the_app_are_answered_too(given: Any, says: str) -> None:
    with pytest.raises(TypeError) as caught:
        engine.Engine("shop", **given)
    assert says in str(caught.value)


def parts_of(bench: Bench) -> dict[str, Any]:
    """Returns the objects that Celery users read attributes of."""

    @bench.app.task
    def one() -> None:
        return None

    return {"request": one.request, "result": one.delay(), "eager": one.apply(), "signature": one.s()}


TABLES = {
    "request": absent.OF_A_REQUEST,
    "result": absent.OF_A_RESULT,
    "eager": absent.OF_A_RESULT,
    "signature": absent.OF_A_SIGNATURE,
}


@pytest.mark.parametrize(("part", "name"), [(part, name) for part in TABLES for name in sorted(TABLES[part])])
def test_attributes_of_celerys_objects_are_answered_with_what_to_write(bench: Bench, part: str, name: str) -> None:
    found = parts_of(bench)[part]
    with pytest.raises(AttributeError) as caught:
        getattr(found, name)
    assert TABLES[part][name] in str(caught.value)
    assert not hasattr(found, "nothing_like_it")
    assert not hasattr(found, "__nothing_like_it__")


def test_a_copy_of_each_of_them_can_be_made(bench: Bench) -> None:
    for found in parts_of(bench).values():
        assert type(copy.copy(found)) is type(found)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("get", "interval"),
        ("get", "disable_sync_subtasks"),
        ("wait", "on_message"),
        ("revoke", "signal"),
        ("app.revoke", "signal"),
        ("app.revoke", "reply"),
        ("update_state", "task_id"),
    ],
)
def test_arguments_of_celerys_methods_are_answered_with_what_to_write(bench: Bench, method: str, name: str) -> None:
    given: Any = {name: 1}
    app, task = bench.app, bench.app.task(print)
    calls: dict[str, Callable[[], Any]] = {
        "get": lambda: task.apply((1,)).get(**given),
        "wait": lambda: task.delay(1).wait(**given),
        "revoke": lambda: task.delay(1).revoke(**given),
        "app.revoke": lambda: app.revoke("1", **given),
        "update_state": lambda: task.update_state(state="HALF", **given),
    }
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'") as caught:
        calls[method]()
    assert absent.KEYWORDS[name] in str(caught.value)


def test_a_class_for_all_tasks_is_answered_with_what_to_write(bench: Bench) -> None:
    with pytest.raises(AttributeError, match=r"app\.Task cannot be set: write app\.around = "):
        bench.app.Task = engine.Task  # type: ignore[misc]
    assert bench.app.Task is engine.Task


def test_one_id_may_be_revoked_as_celery_does(bench: Bench) -> None:
    task = bench.app.task(name="one")(lambda: None)
    first, second = task.apply_async(task_id="first"), task.apply_async(task_id="second")
    bench.app.revoke("first")
    bench.app.revoke(["second"], terminate=True)
    assert [first.state, second.state] == ["REVOKED", "REVOKED"]


def test_what_is_not_here_is_not_listed_and_may_be_added(bench: Bench) -> None:
    class Mine(engine.Task):  # type: ignore[type-arg]
        def replace(self) -> str:
            return "mine"

    @bench.app.task(base=Mine)
    def one() -> None:
        return None

    assert one.replace() == "mine"  # type: ignore[attr-defined]
    assert "replace" in dir(one)
    assert not ({*absent.OF_A_TASK} - {"replace"}) & {*dir(one)}
    assert not {*absent.OF_THE_APP} & {*dir(bench.app)}
    with pytest.raises(AttributeError, match="has no attribute 'queue'"):
        _ = Mine.queue


def test_an_option_is_read_as_it_holds_and_a_base_class_stands_before_it(bench: Bench) -> None:
    class Slow(engine.Task):  # type: ignore[type-arg]
        queue = "slow"

    @bench.app.task(base=Slow, max_retries=7, autoretry_for=(OSError,))
    def one() -> None:
        return None

    assert (one.queue, one.max_retries, one.autoretry_for) == ("slow", 7, (OSError,))
    assert {"queue", "max_retries", "retry_backoff"} <= {*dir(one)}
