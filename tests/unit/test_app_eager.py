"""``apply()``: a task in the process of its caller."""

from __future__ import annotations

from typing import Any

import pytest
from app_fakes import Bench

from engine import ConfigError, EagerResult, Ignore, Reject, SerializationError, states


def test_apply_uses_no_broker(bench: Bench) -> None:
    @bench.app.task(bind=True)
    def work(self: Any, x: int, y: int = 0) -> list[Any]:
        request = self.request
        return [x + y, request.is_eager, request.called_directly, request.id, request.args, request.kwargs]

    result = work.apply((1,), {"y": 2}, task_id="mine")
    assert isinstance(result, EagerResult)
    assert result.get() == [3, True, False, "mine", [1], {"y": 2}]
    assert (result.state, result.id, result.known) == (states.SUCCESS, "mine", True)
    assert bench.transport.batches == []


def test_arguments_and_results_take_the_way_through_the_codec(bench: Bench) -> None:
    @bench.app.task
    def echo(x: Any) -> Any:
        return x

    value = (1, {2: "a"})
    assert echo.apply((value,)).get() == [1, {"2": "a"}]
    with pytest.raises(SerializationError):
        echo.apply((object(),))

    @bench.app.task
    def opaque() -> Any:
        return object()

    assert isinstance(opaque.apply().result, SerializationError)


def test_retries_run_at_once_and_count(bench: Bench) -> None:
    seen: list[int] = []

    @bench.app.task(bind=True, max_retries=3)
    def work(self: Any) -> str:
        seen.append(self.request.retries)
        if len(seen) < 3:
            raise self.retry(countdown=3600)
        return "done"

    assert work.apply().get() == "done"
    assert seen == [0, 1, 2]


def test_the_very_exception_is_raised(bench: Bench) -> None:
    error = ValueError("this one")

    @bench.app.task
    def fail() -> int:
        raise error

    result = fail.apply()
    assert result.failed()
    assert result.result is error
    assert id(result.wait(propagate=False)) == id(error)
    with pytest.raises(ValueError, match="this one") as caught:
        result.get()
    assert caught.value is error


def test_throw(bench: Bench) -> None:
    @bench.app.task
    def fail() -> None:
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        fail.apply(throw=True)


def test_throw_raises_what_it_ended_with(bench: Bench) -> None:
    @bench.app.task(bind=True, max_retries=2)
    def fail(self: Any) -> None:
        self.retry(exc=KeyError("at last"))

    with pytest.raises(KeyError, match="at last"):
        fail.apply(throw=True)


def test_ends_without_a_value(bench: Bench) -> None:
    @bench.app.task
    def end(how: str) -> None:
        raise Ignore if how == "ignore" else Reject("no")

    assert end.apply(("ignore",)).state == states.PENDING
    assert isinstance(end.apply(("reject",)).result, Reject)


def test_an_ignored_result_is_there_all_the_same(bench: Bench) -> None:
    @bench.app.task(ignore_result=True)
    def one() -> int:
        return 1

    assert one.apply().get() == 1


def test_links_run_too(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.app.task
    def note(*args: Any) -> None:
        seen.append(args)

    @bench.app.task
    def work(x: int) -> int:
        if x < 0:
            raise ValueError(x)
        return x

    work.apply((1,), link=note.s("a"))
    failed = work.apply((-1,), link=note.s("b"), link_error=note.s("c"))
    assert seen == [(1, "a"), (failed.id, "c")]


def test_always_eager(bench: Bench) -> None:
    @bench.app.task
    def work(x: int) -> int:
        if x < 0:
            raise ValueError(x)
        return x

    bench.app.conf.task_always_eager = True
    assert work.delay(2).get() == 2
    assert [result.get() for result in work.map([1, 2])] == [1, 2]
    assert work.s(3).delay().get() == 3
    assert bench.app.send_task(work.name, (4,)).get() == 4
    assert work.delay(-1).failed()
    bench.app.conf.update(task_eager_propagates=True)
    with pytest.raises(ValueError, match="-1"):
        work.delay(-1)
    assert bench.transport.batches == []


def test_states_of_an_eager_run(bench: Bench) -> None:
    @bench.app.task(bind=True, track_started=True)
    def work(self: Any) -> None:
        self.update_state("HALF", {"a": 1})
        raise Ignore

    result = work.apply()
    assert result.state == "HALF"
    assert result.info == {"a": 1}


def test_results_inside_an_eager_task_can_be_waited_for(bench: Bench) -> None:
    @bench.app.task
    def inner() -> int:
        return 1

    @bench.app.task
    def outer() -> int:
        return inner.apply().get() + 1

    assert outer.apply().get() == 2


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("task_track_started", True, "[tasks] track_started = true"),
        ("task_time_limit", 300, "[tasks] time_limit = 300"),
        ("broker_url", "redis://", '[broker] url = "redis://"'),
        ("worker_concurrency", 4, "[worker] concurrency = 4"),
        ("imports", ("a", "b"), '[engine] include = ["a", "b"]'),
        ("beat_schedule", {}, "cron"),
        ("worker_prefetch_multiplier", 1, "leave it out"),
        ("task_routes", {}, "[routes]"),
        ("task_trck_started", True, 'did you mean "task_track_started"'),
        ("nothing_like_it", True, "docs/configuration.md"),
    ],
)
def test_old_settings_are_answered_with_what_to_write(bench: Bench, name: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        setattr(bench.app.conf, name, value)
    assert words in str(caught.value)
    with pytest.raises(ConfigError):
        bench.app.conf[name] = value
    with pytest.raises(ConfigError):
        bench.app.conf.update({name: value})
    with pytest.raises(ConfigError, match="ENGINE_CONFIG"):
        bench.app.config_from_object("celeryconfig")


def test_several_old_settings_are_answered_at_once_by_section(bench: Bench) -> None:
    with pytest.raises(ConfigError) as caught:
        bench.app.conf.update(task_always_eager=True, task_acks_late=True, timezone="UTC", task_time_limit=300)
    head, *lines, last = str(caught.value).splitlines()
    assert "write in the TOML file" in head
    assert lines == ["[tasks]", "acks_late = true", "time_limit = 300"]
    assert last.startswith("app.conf.timezone: leave it out")
    assert bench.app.task_always_eager, "what can be set is set"
