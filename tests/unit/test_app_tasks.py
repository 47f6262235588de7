"""Declaring tasks."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from app_fakes import Bench

from engine import BrokerUnavailable, ConfigError, Engine, NotRegistered, Task, current_app, current_task, shared_task
from engine.app import registry
from engine.app.decorator import name_of


def test_the_ways_to_declare(bench: Bench) -> None:
    @bench.app.task
    def plain(x: int) -> int:
        """Says so."""
        return x

    @bench.app.task()
    def called(x: int) -> int:
        return x

    @bench.app.task(name="named", queue="slow")
    def named(x: int) -> int:
        return x

    assert plain.name == "test_app_tasks.plain"
    assert called.name == "test_app_tasks.called"
    assert named.name == "named"
    assert named.queue == "slow"
    assert plain(3) == called(3) == named(3) == 3
    assert plain.__doc__ == "Says so."
    assert plain.__name__ == "plain"
    assert set(bench.app.tasks) == {plain.name, called.name, named.name}
    assert repr(named) == "<task named>"


def test_in_main_the_name_begins_with_the_app(bench: Bench) -> None:
    def work() -> None:
        return None

    work.__module__ = "__main__"
    assert bench.app.task(work).name == "bench.work"


def test_a_callable_without_a_name(bench: Bench) -> None:
    class Callable:
        def __call__(self) -> None:
            return None

    with pytest.raises(TypeError, match="give one"):
        bench.app.task(Callable())
    assert bench.app.task(name="given")(Callable()).name == "given"
    with pytest.raises(TypeError, match="decorates a function"):
        bench.app.task("given")  # type: ignore[call-overload]


def test_a_bound_function_needs_a_parameter_for_the_task(bench: Bench) -> None:
    def nothing() -> None:
        return None

    def only_by_name(*, order: int) -> int:
        return order

    class Shop:
        def method(self) -> None:
            return None

    for function in (nothing, only_by_name, Shop().method):
        with pytest.raises(TypeError, match=r"bind=True .* takes none: write def \w+\(self, \.\.\.\), or leave bind"):
            bench.app.task(bind=True)(function)
    with pytest.raises(TypeError, match="takes none"):
        shared_task(bind=True)(nothing)


def test_bound_functions_of_every_shape(bench: Bench) -> None:
    def any_number(*args: Any) -> int:
        return len(args)

    class Shop:
        def method(self, task: Task[..., Any]) -> str:
            return task.name

    assert bench.app.task(bind=True)(any_number)(1, 2) == 3
    assert bench.app.task(bind=True)(Shop().method)() == "test_app_tasks.method"
    assert bench.app.task(bind=True, name="built in")(repr)() == "<task built in>"


@pytest.mark.parametrize(
    ("option", "nearest"),
    [("max_retry", "max_retries"), ("ack_late", "acks_late"), ("aliasses", "aliases"), ("binds", "bind")],
)
def test_unknown_options_name_the_nearest(bench: Bench, option: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=f'unknown option "{option}", did you mean "{nearest}"'):
        bench.app.task(**{option: True})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="did you mean"):
        shared_task(**{option: True})  # type: ignore[call-overload]


def test_unknown_options_of_the_engine() -> None:
    with registry.isolated(), pytest.raises(TypeError, match='did you mean "time_limit"'):
        Engine("x", time_limits=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "options",
    [
        {"time_limit": 5, "soft_time_limit": 5},
        {"time_limit": "1m", "soft_time_limit": "2m"},
        {"time_limit": "soon"},
        {"priority": 10},
        {"rate_limit": "many"},
        {"memory_limit": "512 bananas"},
        {"max_retries": -1},
    ],
)
def test_values_that_do_not_fit(bench: Bench, options: dict[str, Any]) -> None:
    def fn() -> None:
        return None

    with pytest.raises(ConfigError, match=r"task test_app_tasks\.fn"):
        bench.app.task(**options)(fn)

    with registry.isolated(), pytest.raises(ConfigError, match="Engine"):
        Engine("x", **options)


def test_exceptions_must_be_exceptions(bench: Bench) -> None:
    with pytest.raises(TypeError, match="autoretry_for"):
        bench.app.task(name="x", autoretry_for=("ValueError",))(lambda: None)  # type: ignore[arg-type]


def test_one_name_belongs_to_one_function(bench: Bench) -> None:
    def make(number: int) -> Any:
        def work() -> int:
            return number

        return work

    def other() -> None:
        return None

    bench.app.task(name="taken", aliases=["former"])(make(1))
    bench.app.task(name="taken", aliases=["former"])(make(2))
    assert bench.app.registered("taken")() == 2, "the same code again is a reload"
    for name in ("taken", "former"):
        with pytest.raises(ConfigError, match=rf"two tasks are called '{name}'.*test_app_tasks.py:\d+"):
            bench.app.task(name=name)(other)
        with pytest.raises(ConfigError, match="two tasks"):
            shared_task(name=name)(other)
    with pytest.raises(ConfigError, match="two tasks"):
        bench.app.task(name="new", aliases=["taken"])(other)


@pytest.mark.parametrize("options", [{"name": 5}, {"name": "a", "aliases": 5}, {"name": "a", "aliases": ["b", 5]}])
def test_names_are_text(bench: Bench, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"name must be text|must be a list of names"):
        bench.app.task(**options)(lambda: None)
    assert dict(bench.app.tasks) == {}


def test_aliases(bench: Bench) -> None:
    @bench.app.task(name="new", aliases=("old", "older"))
    def work() -> int:
        return 1

    assert bench.app.find("old") is work
    assert bench.app.find("older") is work
    result = bench.app.send_task("old")
    assert bench.run().task == "new"
    assert result.get(timeout=0) == 1
    assert [(info.name, info.aliases) for info in bench.app.task_infos()] == [("new", ["old", "older"])]


def test_looking_up(bench: Bench) -> None:
    @bench.app.task(name="reports.monthly")
    def work() -> None:
        return None

    assert bench.app.find("nobody") is None
    with pytest.raises(NotRegistered, match=r'did you mean "reports.monthly"'):
        bench.app.registered("reports.montly")
    with pytest.raises(TypeError):
        bench.app.tasks["x"] = work  # type: ignore[index]


def test_task_infos_keep_their_order(bench: Bench) -> None:
    for name in ("b", "a", "c"):
        bench.app.task(name=name, rate_limit="120/m", acks_late=True)(lambda: None)
    infos = bench.app.task_infos()
    assert [info.name for info in infos] == ["a", "b", "c"]
    assert infos[0].rate_limit == 2.0
    assert infos[0].acks_late


def test_bound_tasks(bench: Bench) -> None:
    @bench.app.task(bind=True)
    def who(self: Task[..., Any], x: int) -> tuple[str, int, bool]:
        return self.name, x, self.request.called_directly

    assert who(1) == (who.name, 1, True)
    result = who.delay(2)
    bench.run()
    assert result.get(timeout=0) == (who.name, 2, False)


def test_shared_tasks_belong_to_the_current_engine(bench: Bench) -> None:
    @shared_task(name="shared.add")
    def add(x: int, y: int) -> int:
        return x + y

    @shared_task
    def plain() -> None:
        return None

    assert bench.app.find("shared.add") is add
    assert add.app is bench.app
    add.delay(1, 2)
    assert bench.transport.take().task == "shared.add"
    assert plain.name == "test_app_tasks.plain"


def test_which_engine_is_current() -> None:
    with registry.isolated():

        @shared_task(name="one")
        def one() -> None:
            return None

        with pytest.raises(ConfigError, match="there is no Engine yet: import the module that makes it"):
            one.delay()
        first = Engine("first")
        second = Engine("second")
        assert registry.current_engine() is first
        second.set_current()
        assert one.app is second
        first.configure(first.settings)
        assert registry.current_engine() is first, "the configured one"
        assert one.app is second, "it is bound"


def test_the_current_app_stands_for_the_current_engine() -> None:
    with registry.isolated():
        assert repr(current_app) == "<current app: none>"
        with pytest.raises(ConfigError, match="no Engine yet"):
            _ = current_app.tasks
        app = Engine("mine")
        assert current_app.name == "mine"
        assert current_app.find("nothing") is app.find("nothing") is None


def test_errors_can_be_caught_by_the_names_that_tasks_have_for_them(bench: Bench) -> None:
    @bench.app.task(bind=True, max_retries=0)
    def give_up(self: Any) -> str:
        try:
            raise self.retry()
        except self.MaxRetriesExceededError:
            return "gave up"

    assert give_up.apply().get() == "gave up"
    bench.transport.failures = [BrokerUnavailable("gone")] * 3
    with pytest.raises(give_up.OperationalError):
        give_up.apply_async(retry=False)


def test_base_classes(bench: Bench) -> None:
    class Retrying(bench.app.Task):  # type: ignore[misc, name-defined]
        max_retries = 7
        autoretry_for = (ValueError,)
        acks_late = True

        def __init__(self) -> None:
            self.opened = 1

    @bench.app.task(base=Retrying, bind=True, acks_late=False)
    def work(self: Any) -> int:
        return int(self.opened)

    assert isinstance(work, Retrying)
    assert work.options.max_retries == 7
    assert work.code.autoretry_for == (ValueError,)
    assert not work.options.acks_late, "the decorator is stronger"
    result = work.delay()
    bench.run()
    assert result.get(timeout=0) == 1
    with pytest.raises(TypeError, match="base must be"):
        bench.app.task(base=dict)(lambda: None)


def test_a_base_class_with_its_own_call(bench: Bench) -> None:
    class Framed(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ["framed", super().__call__(*args, **kwargs), self.request.called_directly]

    @bench.app.task(base=Framed, bind=True)
    def work(self: Any, x: int) -> tuple[int, bool]:
        return x, self.request.called_directly

    result = work.delay(1)
    bench.run()
    assert result.result == ["framed", [1, False], False]


def test_options_can_be_read_on_the_task(bench: Bench) -> None:
    @bench.app.task(soft_time_limit="30s", rate_limit="10/m", throws=KeyError)
    def work() -> None:
        return None

    assert work.soft_time_limit == 30.0
    assert work.time_limit is None
    assert work.max_retries == 3
    assert work.default_retry_delay == 180.0
    assert work.options.rate_limit == pytest.approx(1 / 6)
    assert work.code.throws == (KeyError,)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = work.nonsense  # type: ignore[attr-defined]


def test_a_task_can_be_pickled(bench: Bench) -> None:
    @bench.app.task
    def work() -> None:
        return None

    assert pickle.loads(pickle.dumps(work)) is work


def test_current_task(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.app.task
    def inner() -> None:
        seen.append((current_task.name, current_task.request.called_directly))

    @bench.app.task
    def outer() -> None:
        inner()
        seen.append((current_task.name, current_task.request.id))

    assert not current_task
    with pytest.raises(AttributeError, match="no task is running"):
        _ = current_task.name
    result = outer.delay()
    bench.run()
    assert seen == [(inner.name, True), (outer.name, result.id)]
    assert not current_task


def test_the_request(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.app.task(bind=True)
    def work(self: Any, x: int, y: int = 0) -> None:
        request = self.request
        seen.append(request)
        assert (request.args, request.kwargs, request.retries, request.deliveries) == ([1], {"y": 2}, 0, 2)
        assert (request.queue, request.priority, request.hostname) == ("default", 4, "host")
        assert request.delivery_info == {"exchange": "", "routing_key": "default", "priority": 4, "redelivered": True}
        assert request.expires.endswith("+00:00")
        assert request.eta is None
        assert request.headers == {"tenant": "a"}
        assert request.get("tenant") == "a"
        assert request.get("nothing", 5) == 5
        assert request.timelimit == (9.0, 8.0)
        assert (request.called_directly, request.is_eager) == (False, False)
        assert "@" in request.origin
        assert (request.root_id, request.parent_id) == (request.id, None)
        assert self.time_left() == 12.5

    from app_fakes import FakeRun

    result = work.apply_async(
        (1,), {"y": 2}, priority=4, expires=60, headers={"tenant": "a"}, time_limit=9, soft_time_limit=8
    )
    bench.run(FakeRun(deliveries=2))
    result.get(timeout=0)
    assert seen[0].id == result.id
    assert work.request.called_directly
    assert work.request.id is None
    assert work.time_left() is None
    with work.shield():
        work.update_state("NOTHING")


def test_the_hooks_of_children(bench: Bench) -> None:
    seen: list[str] = []

    @bench.app.on_child_start
    def start() -> None:
        seen.append("start")

    @bench.app.on_child_stop
    def fails() -> None:
        seen.append("fails")
        raise ValueError("first")

    @bench.app.on_child_stop
    def stop() -> None:
        seen.append("stop")

    bench.app.child_start()
    with pytest.raises(ValueError, match="first"):
        bench.app.child_stop()
    assert seen == ["start", "fails", "stop"]


def test_names_of_functions(bench: Bench) -> None:
    assert name_of(len, None) == "builtins.len"
    with pytest.raises(TypeError):
        name_of(SimpleNamespace(), None)  # type: ignore[arg-type]
