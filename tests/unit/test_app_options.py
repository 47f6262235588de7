"""Which place decides, when several set an option."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from app_fakes import Bench, FakeRun
from msgspec import UNSET

from engine import Engine
from engine.app import registry
from engine.app.options import Limits, check_call_limits, pair, section_of
from engine.app.settings import Duration, Settings, TaskSection


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], (None, None)),
        ([(UNSET, UNSET)], (None, None)),
        ([(10, 5)], (10, 5)),
        ([(10, 5), (100, 50)], (10, 5)),
        ([(UNSET, UNSET), (100, 50)], (100, 50)),
        ([(10, UNSET), (100, 5)], (10, 5)),
        ([(10, UNSET), (100, 50)], (10, None)),
        ([(10, UNSET), (100, 10)], (10, None)),
        ([(10, UNSET), (100, 50), (20, 5)], (10, None)),
        ([(UNSET, 5), (100, 50)], (100, 5)),
        ([(UNSET, 500), (100, 50)], (None, 500)),
        ([(None, UNSET), (100, 50)], (None, 50)),
        ([(UNSET, None), (100, 50)], (100, None)),
        ([(None, None), (100, 50)], (None, None)),
        ([(10, UNSET), (UNSET, UNSET), (UNSET, 5)], (10, 5)),
    ],
)
def test_limits_are_chosen_as_a_pair(places: Any, expected: Any) -> None:
    assert pair(places) == expected


def test_only_a_pair_in_one_place_is_checked() -> None:
    check_call_limits(None, 5)
    check_call_limits(5, None)
    with pytest.raises(ValueError, match="must be below"):
        check_call_limits(5, 5)


def configured(app: Engine, **sections: Any) -> None:
    settings = Settings(**sections)
    app.configure(settings)
    app.client.use(app.client._given[0], None) if app.client._given else None


def test_the_order_of_the_places() -> None:
    with registry.isolated():
        app = Engine("x", max_retries=1, queue="engine", acks_late=True, priority=1)

        @app.task(name="t", max_retries=3, queue="decorator", track_started=True)
        def work() -> None:
            return None

        def seen() -> tuple[Any, ...]:
            options = work.options
            return options.max_retries, options.queue, options.acks_late, options.priority, options.track_started

        assert seen() == (3, "decorator", True, 1, True)
        configured(app, tasks=TaskSection(max_retries=2, acks_late=False, priority=2))
        assert seen() == (3, "decorator", False, 2, True), (
            "[tasks] is stronger than Engine(), weaker than the decorator"
        )
        configured(app, task={"t": TaskSection(max_retries=None, queue="table"), "other": TaskSection(priority=9)})
        assert seen() == (None, "table", True, 1, True), '[tasks."name"] is stronger than the decorator'


def test_built_in_values(bench: Bench) -> None:
    @bench.app.task
    def work() -> None:
        return None

    options = work.options
    assert (options.max_retries, options.default_retry_delay, options.queue) == (3, 180.0, "default")
    assert (options.acks_late, options.acks_on_failure_or_timeout, options.ignore_result) == (False, True, False)
    assert (options.priority, options.expires, options.serializer, options.rate_limit) == (None, None, "json", None)
    assert (work.code.retry_backoff, work.code.retry_backoff_max, work.code.retry_jitter) == (0, 600.0, True)
    assert work.code.typing


def test_routes(bench: Bench) -> None:
    app = Engine("x", routes={"reports.*": "code", "mail.*": "mail"})
    configured(
        app,
        routes={"reports.*": "slow", "*.urgent": "fast"},
        task={"reports.own": TaskSection(queue="own"), "plain": TaskSection()},
        tasks=TaskSection(queue="all"),
    )
    queues = {
        name: app.route(name, None).queue for name in ("reports.a", "a.urgent", "reports.own", "mail.a", "plain", "x")
    }
    assert queues == {
        "reports.a": "slow",
        "a.urgent": "fast",
        "reports.own": "own",
        "mail.a": "mail",
        "plain": "all",
        "x": "all",
    }

    @app.task(name="reports.decorated", queue="decorator")
    def work() -> None:
        return None

    assert work.route.queue == "slow", "who operates the worker has the last word"


def test_limits_of_a_run(bench: Bench) -> None:
    @bench.app.task(time_limit=100, soft_time_limit=50, memory_limit="1MiB")
    def work() -> None:
        return None

    def limits(**call: Any) -> Limits:
        work.apply_async(**call)
        return work.limits(bench.transport.take())

    assert limits() == Limits(100.0, 50.0, 2**20)
    assert limits() is limits()
    assert limits(time_limit=10) == Limits(10.0, None, 2**20)
    assert limits(time_limit=70) == Limits(70.0, 50.0, 2**20)
    assert limits(soft_time_limit=20) == Limits(100.0, 20.0, 2**20)
    assert limits(time_limit=3, soft_time_limit=2) == Limits(3.0, 2.0, 2**20)


def test_new_settings_reach_tasks_that_were_used(bench: Bench) -> None:
    @bench.app.task(name="t")
    def work() -> None:
        return None

    work.delay()
    bench.run()
    before = work.info.acks_late
    transport, results = bench.transport, bench.results
    bench.app.configure(Settings(tasks=TaskSection(acks_late=True, time_limit=Duration(9)), routes={"t": "other"}))
    bench.app.client.use(transport, results)
    assert (before, work.info.acks_late) == (False, True)
    assert work.options.time_limit == 9.0
    work.delay()
    assert transport.envelopes[0].queue == "other"
    assert bench.run(FakeRun()).state == "SUCCESS"


def test_durations_sizes_and_rates_as_people_write_them() -> None:
    section = section_of(
        {"time_limit": timedelta(minutes=5), "soft_time_limit": "4m", "memory_limit": "512MB", "rate_limit": 5}, "here"
    )
    assert (section.time_limit, section.soft_time_limit, section.memory_limit) == (300.0, 240.0, 512_000_000)
    assert section.rate_limit == 5


def test_settings_of_the_code_are_weaker_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINE_CONFIG", raising=False)
    with registry.isolated():
        app = Engine("x", broker="memory://", backend="memory://", result_expires="1h")
        assert app.settings.broker.url == "memory://"
        assert app.settings.results.expires == 3600.0
        monkeypatch.setenv("ENGINE_BROKER_URL", "sqlite:///other.db")
        assert Engine("y", broker="memory://").settings.broker.url == "sqlite:///other.db"
        assert app.settings.broker.url == "memory://", "read once"


def test_from_toml(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('[engine]\nname = "mine"\n[broker]\nurl = "sqlite:///a.db"\n[tasks]\nmax_retries = 8\n')
    with registry.isolated():
        app = Engine.from_toml(str(file))
        assert app.name == "mine"
        assert app.settings.broker.url == "sqlite:///a.db"
        assert app.task(name="t")(lambda: None).options.max_retries == 8
        monkeypatch.setenv("ENGINE_CONFIG", str(file))
        assert Engine("other").settings.broker.url == "sqlite:///a.db"
