"""Settings in ENGINE_* variables."""

from __future__ import annotations

import pytest

from engine.app.config.loader import load
from engine.errors import ConfigError


def test_each_kind_of_value() -> None:
    settings = load(
        env={
            "ENGINE_NAME": "shop",
            "ENGINE_APP": "shop.tasks",
            "ENGINE_INCLUDE": "a.tasks, b.tasks",
            "ENGINE_BROKER_URL": "memory://",
            "ENGINE_RESULTS_EXPIRES": "90",
            "ENGINE_WORKER_CONCURRENCY": "8",
            "ENGINE_WORKER_PRELOAD": "off",
            "ENGINE_WORKER_JSON_LOGS": "TRUE",
            "ENGINE_WORKER_PREFETCH": "none",
            "ENGINE_WORKER_MAX_MEMORY_PER_CHILD": "1GiB",
            "ENGINE_WORKER_LOG_LEVEL": "debug",
            "ENGINE_TASKS_TIME_LIMIT": "5m",
            "ENGINE_TASKS_RATE_LIMIT": "10/m",
            "ENGINE_PLUGINS_LOAD": "./a.py",
        }
    ).settings
    assert (settings.engine.name, settings.engine.app) == ("shop", "shop.tasks")
    assert settings.engine.include == ["a.tasks", "b.tasks"]
    assert settings.broker.url == "memory://"
    assert settings.results.expires == 90.0
    worker = settings.worker
    assert (worker.concurrency, worker.preload, worker.json_logs, worker.prefetch) == (8, False, True, None)
    assert (worker.max_memory_per_child, worker.log_level) == (2**30, "DEBUG")
    assert (settings.tasks.time_limit, settings.tasks.rate_limit) == (300.0, "10/m")
    assert settings.plugins.load == ["./a.py"]


def test_the_section_engine_may_be_named_or_not() -> None:
    config = load(env={"ENGINE_ENGINE_NAME": "long", "ENGINE_ENGINE_APP": "shop"})
    assert (config.settings.engine.name, config.origins["engine.app"]) == ("long", "ENGINE_ENGINE_APP")
    assert load(env={"ENGINE_ENGINE_NAME": "long", "ENGINE_NAME": "short"}).settings.engine.name == "short"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("ENGINE_WORKER_CONCURENCY", 'unknown setting, did you mean "ENGINE_WORKER_CONCURRENCY"?'),
        ("ENGINE_WORKR_CONCURRENCY", 'unknown setting, did you mean "ENGINE_WORKER_CONCURRENCY"?'),
        ("ENGINE_CONCURRENCY", "unknown setting, "),
        ("ENGINE_BROKER", "unknown setting, "),
        ("ENGINE_WORKER_ZZZ", "unknown setting: [worker] has no such key"),
        ("ENGINE_TASKS_ZZZ", "unknown setting: [tasks] has no such key"),
    ],
)
def test_a_misspelt_variable_is_an_error(name: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(env={name: "1"})
    assert str(caught.value).startswith(f"{name}: {problem}")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ENGINE_CONFIG", ""),
        ("ENGINE_DEBUG", "1"),
        ("ENGINE_DEMO_INDEX", "index.db"),
        ("ENGINE_ROOM_TEMPERATURE", "hot"),
        ("ENGINE_PORT", "tcp://10.0.0.1:80"),
        ("ENGINE_WORKER_SERVICE_HOST", "10.0.0.1"),
        ("ENGINE_WORKER_SERVICE_PORT_HTTP", "80"),
        ("ENGINE_BROKER_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("ENGINES", "4"),
        ("SEARCH_ENGINE_NAME", "x"),
    ],
)
def test_other_peoples_variables_are_left_alone(name: str, text: str) -> None:
    config = load(env={name: text})
    assert set(config.origins.values()) == {"default"}


def test_a_value_that_does_not_fit_names_the_variable() -> None:
    with pytest.raises(ConfigError, match=r'^ENGINE_WORKER_PRELOAD: expected true or false, got "perhaps"$'):
        load(env={"ENGINE_WORKER_PRELOAD": "perhaps"})
