"""Settings from a file, the environment, the command line and code: which wins, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from engine.app.config.loader import Config, changed, dump, load, restore
from engine.app.settings import BrokerSection, Duration, EngineSection, Settings, TaskSection
from engine.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("worker.toml")


def _load(file: Path, text: str, **given: Any) -> Config:
    file.write_text(text)
    return load(str(file), **{"env": {}, **given})


def _problems(file: Path, text: str, **given: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _load(file, text, **given)
    return str(caught.value).splitlines()


def test_nothing_written_gives_the_defaults() -> None:
    config = load(env={})
    assert config.settings == Settings()
    assert set(config.origins.values()) == {"default"}
    assert config.path is None


def test_a_file(file: Path) -> None:
    config = _load(
        file,
        """
[engine]
name = "shop"
[broker]
url = "sqlite:///engine.db"
[results]
expires = 60
[worker]
max_memory_per_child = "512MB"
shutdown_timeout = "1m30s"
[tasks]
time_limit = "5m"
soft_time_limit = "4m30s"
max_retries = "none"
[tasks."documents.process"]
rate_limit = "10/m"
[routes]
"reports.*" = "slow"
"*" = "rest"
""",
    )
    settings = config.settings
    assert settings.engine.name == "shop"
    assert settings.results.expires == 60.0
    assert settings.worker.max_memory_per_child == 512_000_000
    assert settings.worker.shutdown_timeout == 90.0
    assert (settings.tasks.time_limit, settings.tasks.soft_time_limit) == (300.0, 270.0)
    assert settings.tasks.max_retries is None
    assert settings.tasks.rate_limit is UNSET
    assert settings.task["documents.process"] == TaskSection(rate_limit="10/m")
    assert list(settings.routes.items()) == [("reports.*", "slow"), ("*", "rest")]
    assert config.origins["engine.name"] == "worker.toml:3"
    assert config.origins['tasks."documents.process".rate_limit'] == "worker.toml:16"
    assert config.origins['routes."reports.*"'] == "worker.toml:18"
    assert config.path == file


def test_the_later_place_wins(file: Path) -> None:
    text = '[engine]\nname = "file"\n[worker]\nconcurrency = 2\nprefetch = 5\nqueues = ["file"]\n'
    code = Settings(engine=EngineSection(name="code", include=["code.tasks"]))
    env = {"ENGINE_WORKER_CONCURRENCY": "3", "ENGINE_WORKER_PREFETCH": "6", "ENGINE_WORKER_QUEUES": "a, b,"}
    config = _load(file, text, env=env, overrides={"worker.concurrency": 4}, code=code)
    assert config.settings.engine.include == ["code.tasks"]
    assert config.settings.engine.name == "file"
    assert config.settings.worker.prefetch == 6
    assert config.settings.worker.queues == ["a", "b"]
    assert config.settings.worker.concurrency == 4
    assert _load(file, text, env={"ENGINE_WORKER_QUEUES": '["a", "b"]'}).settings.worker.queues == ["a", "b"]
    origins = [config.origins[f"{key}"] for key in ("engine.include", "engine.name", "worker.prefetch")]
    assert origins == ["code", "worker.toml:2", "ENGINE_WORKER_PREFETCH"]
    assert config.origins["worker.concurrency"] == "--concurrency"
    assert config.origins["worker.preload"] == "default"


def test_the_settings_of_the_code_are_not_changed(file: Path) -> None:
    code = Settings()
    _load(file, '[engine]\ninclude = ["a"]\n[routes]\n"*" = "q"\n[broker]\nspeed = 3\n', code=code)
    assert code == Settings()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[worker]\nconcurency = 4", 'worker.toml:2: [worker] concurency: unknown key, did you mean "concurrency"?'),
        ("[worker]\ntime_limit = 4", "worker.toml:2: [worker] time_limit: unknown key: it belongs into [tasks]"),
        ("[engine]\nzzz = 1", "worker.toml:2: [engine] zzz: unknown key (known: name, app, include, runtime_dir)"),
        ("\n[wroker]\nx = 1", 'worker.toml:2: [wroker]: unknown section, did you mean "worker"?'),
        ("concurrency = 1", "worker.toml:1: concurrency stands outside of a section: put it under [worker]"),
        ("worker = 1", "worker.toml:1: worker must be a table: write [worker]"),
        ('[worker]\nconcurrency = "4"', 'worker.toml:2: [worker] concurrency: expected a whole number, got "4"'),
        ("[worker]\nconcurrency = true", "worker.toml:2: [worker] concurrency: expected a whole number, got true"),
        (
            "[worker]\nconcurrency = -1",
            "worker.toml:2: [worker] concurrency: expected a whole number of at least 0, got -1",
        ),
        ("[tasks]\npriority = 10", "worker.toml:2: [tasks] priority: expected a whole number of at most 9, got 10"),
        ('[worker]\npreload = "no"', 'worker.toml:2: [worker] preload: expected true or false, got "no"'),
        ('[worker]\nqueues = "a"', 'worker.toml:2: [worker] queues: expected a list such as ["a", "b"], got "a"'),
        ("[worker]\nqueues = []", "worker.toml:2: [worker] queues: must not be empty"),
        ("[engine]\napp = 3", "worker.toml:2: [engine] app: expected text in quotes, got 3"),
        ('[engine]\nname = "a/b"', "worker.toml:2: [engine] name: expected 1 to 64 letters, digits"),
        ('[worker]\nlog_level = "LOUD"', "worker.toml:2: [worker] log_level: expected one of DEBUG, INFO"),
        ('[results]\nexpires = "1y"', "worker.toml:2: [results] expires: '1y' is not a duration: a number"),
        ('[worker]\nmax_message = "1XB"', "worker.toml:2: [worker] max_message: '1XB' is not a size: a number"),
        ('[tasks]\nrate_limit = "5/d"', "worker.toml:2: [tasks] rate_limit: '5/d' is not a rate: a number"),
        ("[tasks]\ntime_limit = 0", "worker.toml:2: [tasks] time_limit: expected more than 0 seconds"),
        ('[broker]\nurl = "engine.db"', 'worker.toml:2: [broker] url: "engine.db" is not a URL such as'),
        ('[broker]\nurl = "localhost:6379"', 'worker.toml:2: [broker] url: "localhost:6379" is not a URL such as'),
        ('[routes]\n"a.*" = 3', "worker.toml:2: [routes] a.*: expected text in quotes, got 3"),
        ('[tasks."a.b"]\nrate = 3', 'worker.toml:2: [tasks."a.b"] rate: unknown key, did you mean "rate_limit"?'),
        ("[tasks.a.b]\nrate_limit = 3", 'worker.toml:1: [tasks.a] b: put a task\'s name into quotes: [tasks."a.b"]'),
        ("[worker\n", "worker.toml:1: not TOML: Expected ']' at the end of a table declaration (column 8)"),
        ("[a]\nx = 'b", "worker.toml:2: not TOML: "),
        ("[a]\nx = 1\nx = 2", "worker.toml:3: not TOML: Cannot overwrite a value: this key stands above already"),
        ("[a]\nx = 1\n[b]\n[a]", "worker.toml:4: not TOML: [a] stands here a second time: put its keys under the fi"),
        ('[a."b.c"]\n[a."b.c"]', "worker.toml:2: not TOML: [a.b.c] stands here a second time"),
        ("[engine]\napp = tasks:app", "worker.toml:2: not TOML: Invalid value: text stands in quotes"),
        ("[worker]\nprefetch_multiplier = 1", "worker.toml:2: [worker] prefetch_multiplier: unknown key: leave it out"),
        (
            "[tasks]\nreject_on_worker_lost = true",
            "worker.toml:2: [tasks] reject_on_worker_lost: unknown key: it is",
        ),
    ],
)
def test_a_mistake_is_named_with_file_and_line(file: Path, text: str, problem: str) -> None:
    problems = _problems(file, text)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    problems = _problems(
        file,
        '[worker]\nconcurency = 1\nqueues = 3\n[wroker]\n[tasks]\ntime_limit = "x"\n',
        env={"ENGINE_WORKER_PREFETCH": "many", "ENGINE_WORKER_NOPE": "1"},
    )
    assert [problem.split(": ")[0] for problem in problems] == [
        "worker.toml:2",
        "worker.toml:3",
        "worker.toml:4",
        "worker.toml:6",
        "ENGINE_WORKER_NOPE",
        "ENGINE_WORKER_PREFETCH",
    ]


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"^nowhere/worker\.toml: no such file or directory$"):
        load("nowhere/worker.toml", env={})


def test_a_file_that_is_not_text(file: Path) -> None:
    file.write_bytes(b"[engine]\nname = '\xff'")
    with pytest.raises(ConfigError, match=r"^worker\.toml: not UTF-8 \(byte 17\): save it as UTF-8$"):
        load(str(file), env={})


def test_the_environment_names_the_file(file: Path) -> None:
    file.write_text('[engine]\nname = "shop"')
    assert load(env={"ENGINE_CONFIG": str(file)}).settings.engine.name == "shop"
    with pytest.raises(ConfigError, match=r"^ENGINE_CONFIG: nowhere\.toml: no such file"):
        load(env={"ENGINE_CONFIG": "nowhere.toml"})


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ('[tasks]\ntime_limit = "1m"\nsoft_time_limit = 60', "worker.toml:3: [tasks] soft_time_limit: 1m is not below"),
        ('[tasks."t"]\nsoft_time_limit = 61\ntime_limit = 60', "worker.toml:2: [tasks.t] soft_time_limit: 1m1s is not"),
    ],
)
def test_a_pair_of_limits_in_one_place_must_fit(file: Path, limits: str, problem: str) -> None:
    assert _problems(file, limits)[0].startswith(problem)


def test_limits_in_different_tables_need_not_fit(file: Path) -> None:
    config = _load(file, "[tasks]\nsoft_time_limit = 60\n[tasks.t]\ntime_limit = 30")
    assert config.settings.task["t"].soft_time_limit is UNSET


def test_a_soft_limit_from_a_weaker_place_is_dropped_when_it_is_not_below(file: Path) -> None:
    text = "[tasks]\ntime_limit = 100\nsoft_time_limit = 90"
    config = _load(file, text, env={"ENGINE_TASKS_TIME_LIMIT": "60"})
    assert config.settings.tasks.time_limit == 60.0
    assert config.settings.tasks.soft_time_limit is UNSET
    assert _load(file, text, env={"ENGINE_TASKS_TIME_LIMIT": "95"}).settings.tasks.soft_time_limit == 90.0


def test_a_hard_limit_of_the_code_is_dropped_when_it_is_not_above(file: Path) -> None:
    code = Settings(tasks=TaskSection(time_limit=Duration(5)))
    config = _load(file, "[tasks]\nsoft_time_limit = 10", code=code)
    assert (config.settings.tasks.time_limit, config.settings.tasks.soft_time_limit) == (UNSET, 10.0)
    assert config.origins.get("tasks.time_limit") is None
    assert _load(file, "[tasks]\nsoft_time_limit = 4", code=code).settings.tasks.time_limit == 5


def test_a_soft_limit_from_a_stronger_place_must_be_below(file: Path) -> None:
    problems = _problems(file, "[tasks]\ntime_limit = 60", env={"ENGINE_TASKS_SOFT_TIME_LIMIT": "2m"})
    assert problems == ["ENGINE_TASKS_SOFT_TIME_LIMIT: 2m is not below the time_limit of 1m (worker.toml:2)"]


def test_further_keys_of_broker_and_results_belong_to_the_plugin(file: Path) -> None:
    config = _load(file, '[broker]\nurl = "x://"\nspeed = 3\n', env={"ENGINE_RESULTS_SPEED": "4"})
    assert config.settings.broker.options == {"speed": 3}
    assert config.settings.broker.origins == {"url": "worker.toml:2", "speed": "worker.toml:3"}
    assert config.settings.results.options == {"speed": "4"}
    assert config.origins["results.speed"] == "ENGINE_RESULTS_SPEED"


def test_every_value_is_listed_with_its_origin(file: Path) -> None:
    text = (
        '[broker]\nurl = "redis://me:s3cret@host/0"\n[tasks]\ntime_limit = "90s"\n[results]\ndb_password = "s3cret"\n'
    )
    config = _load(file, text)
    rows = {key: (value, origin) for key, value, origin in config.values()}
    assert rows["broker.url"] == ('"redis://me:***@host/0"', "worker.toml:2")
    assert rows["tasks.time_limit"] == ('"1m30s"', "worker.toml:4")
    assert rows["worker.max_message"] == ('"16MiB"', "default")
    assert rows["worker.accept"] == ('["json", "msgpack"]', "default")
    assert rows["results.db_password"] == ('"***"', "worker.toml:6")
    assert rows["tasks.default_retry_delay"] == ('"3m"', "default")


def test_settings_travel_as_bytes(file: Path) -> None:
    settings = load(str(ROOT / "conf/worker.toml"), env={}).settings
    settings.task["t"] = TaskSection(time_limit=None, memory_limit=UNSET, max_retries=None)
    assert restore(dump(settings)) == settings
    assert isinstance(restore(dump(settings)).worker.dead_after, Duration)


def test_what_changed_is_named() -> None:
    old, new = Settings(), Settings(broker=BrokerSection(url="memory://"))
    new.worker.concurrency = 3
    new.task["a.b"] = TaskSection(queue="slow")
    new.routes["*"] = "q"
    assert changed(old, new) == ["broker.url", "worker.concurrency", 'tasks."a.b".queue', 'routes."*"']
    assert changed(new, old) == changed(old, new)
    assert changed(old, Settings()) == []


def test_reading_again_sees_the_file_as_it_is_now(file: Path) -> None:
    file.write_text("[worker]\nconcurrency = 1\nprefetch = 1\n")
    config = load(str(file), overrides={"worker.concurrency": "7"})
    file.write_text("[worker]\nconcurrency = 2\nprefetch = 2\n")
    again = config.reread()
    assert (again.settings.worker.concurrency, again.settings.worker.prefetch) == (7, 2)


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'worker\.concurency: unknown setting, did you mean "worker\.concurrency"'):
        load(env={}, overrides={"worker.concurency": 1})


def test_an_override_is_named_as_its_option() -> None:
    with pytest.raises(ConfigError, match=r'^--concurrency: expected a whole number, got "many"$'):
        load(env={}, overrides={"worker.concurrency": "many"})
