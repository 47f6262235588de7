"""``config_from_object``: the settings of a Celery project, told as TOML."""

from __future__ import annotations

import shlex
import sys
import tomllib
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from app_fakes import Bench

from engine import ConfigError
from engine.app.settings import BrokerSection, Settings, TaskSection

CELERYCONFIG = {
    "broker_url": "redis://localhost/0",
    "result_backend": None,
    "accept_content": ["application/json", "pickle"],
    "task_routes": {"shop.mail": {"queue": "mail"}, "reports.*": "slow"},
    "task_queues": [SimpleNamespace(name="mail", routing_key="mail"), SimpleNamespace(name="slow", routing_key="slow")],
    "worker_max_memory_per_child": 200_000,
    "result_expires": timedelta(hours=2),
    "task_reject_on_worker_lost": True,
    "a_helper_of_the_module": print,
}
LINES = [
    "[broker]",
    'url = "redis://localhost/0"',
    "[worker]",
    'accept = ["json", "pickle"]',
    'queues = ["mail", "slow"]',
    'max_memory_per_child = "200000KiB"',
    "[routes]",
    '"shop.mail" = "mail"',
    '"reports.*" = "slow"',
    "[results]",
    "expires = 7200.0",
]


@pytest.mark.parametrize("form", ["dict", "object", "namespace", "path"])
def test_the_settings_of_a_celery_project_are_written_out_as_toml(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    given: Any = CELERYCONFIG
    namespace = None
    if form == "object":
        given = SimpleNamespace(**CELERYCONFIG)
    elif form == "namespace":
        given = SimpleNamespace(DEBUG=True, **{f"CELERY_{name.upper()}": CELERYCONFIG[name] for name in CELERYCONFIG})
        del given.CELERY_A_HELPER_OF_THE_MODULE
        namespace = "CELERY"
    elif form == "path":
        monkeypatch.setitem(sys.modules, "old_config", ModuleType("old_config"))
        vars(sys.modules["old_config"])["settings"] = SimpleNamespace(**CELERYCONFIG)
        given = "old_config:settings"
    with pytest.raises(ConfigError) as caught:
        bench.app.config_from_object(given, namespace=namespace)
    head, *lines = str(caught.value).splitlines()
    assert head.endswith("write in the TOML file:")
    assert set(LINES) <= set(lines)
    rest = [line for line in lines if line not in LINES]
    assert [line.split(":")[0] for line in sorted(rest)] == [
        "app.conf.result_backend",
        "app.conf.task_reject_on_worker_lost",
    ]
    parsed = tomllib.loads("\n".join(line for line in lines if not line.startswith("app.conf")))
    assert parsed["routes"] == {"shop.mail": "mail", "reports.*": "slow"}


def test_eager_settings_may_stay_in_the_object(bench: Bench) -> None:
    bench.app.config_from_object(SimpleNamespace(CELERY_TASK_ALWAYS_EAGER=True), namespace="CELERY")
    assert bench.app.task_always_eager


@pytest.mark.parametrize("given", [SimpleNamespace(DEBUG=True), {}, "no_such_module_at_all", "os:nothing_of_it"])
def test_an_object_without_old_settings_is_to_be_deleted(bench: Bench, given: Any) -> None:
    with pytest.raises(ConfigError, match="delete this line"):
        bench.app.config_from_object(given)


def told(app: Any, given: Any, namespace: str | None = None) -> str:
    """Returns what is said of these settings."""
    with pytest.raises(ConfigError) as caught:
        app.config_from_object(given, namespace=namespace)
    return str(caught.value)


def test_the_names_before_celery_4_are_understood_where_no_namespace_is_given(bench: Bench) -> None:
    old = SimpleNamespace(
        DEBUG=True,
        BROKER_URL="redis://localhost/0",
        CELERY_RESULT_BACKEND="redis://localhost/1",
        CELERY_ACKS_LATE=True,
        CELERYD_CONCURRENCY=3,
        CELERY_ROUTES={"a": {"queue": "b"}},
        CELERY_OF_SOMEBODY_ELSE=1,
        celery_app="not a setting",
    )
    lines = told(bench.app, old).splitlines()
    assert {"acks_late = true", "concurrency = 3", '"a" = "b"', 'url = "redis://localhost/1"'} <= set(lines)
    assert [line.partition(":")[0] for line in lines if line.startswith("app.conf.")] == [
        "app.conf.celery_of_somebody_else"
    ]


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("pyamqp://guest@localhost//", 'url = "amqp://guest@localhost/"'),
        ("amqp://localhost/shop", 'url = "amqp://localhost/shop"'),
        ("redis+socket:///run/redis.sock", 'url = "redis+unix:///run/redis.sock"'),
        ("db+sqlite:////var/lib/shop.db", 'url = "sqlite:////var/lib/shop.db"'),
        ("rpc://", 'url = "rpc://"'),
        ("redis://[::1", 'url = "redis://[::1"'),
    ],
)
def test_urls_are_written_as_they_are_read_here(bench: Bench, url: str, line: str) -> None:
    assert told(bench.app, {"broker_url": url}).endswith(f"write in the TOML file: [broker] {line}")


def test_a_password_is_not_shown(bench: Bench) -> None:
    text = told(bench.app, {"broker_url": "redis://:s3cret@localhost", "task_acks_late": True})
    assert "s3cret" not in text
    assert "set ENGINE_BROKER_URL" in text
    assert tomllib.loads(text.partition("\n")[2]) == {"broker": {}, "tasks": {"acks_late": True}}
    assert "set ENGINE_RESULTS_URL" in told(bench.app, {"result_backend": "rpc://me:s3cret@localhost"})


def test_a_backend_that_is_not_here_is_named(bench: Bench) -> None:
    assert "django-db is not here: write a url such as" in told(bench.app, {"result_backend": "django-db"})


@pytest.mark.parametrize(
    "routes",
    [
        {"feed.*": {"queue": "feeds"}, "web.*": "web"},
        [("feed.*", {"queue": "feeds"}), ("web.*", "web")],
        ([("feed.*", {"queue": "feeds"}), ("web.*", {"queue": "web"})],),
    ],
)
def test_routes_are_written_out_in_each_of_their_forms(bench: Bench, routes: Any) -> None:
    text = told(bench.app, {"task_routes": routes})
    assert tomllib.loads(text.partition("\n")[2]) == {"routes": {"feed.*": "feeds", "web.*": "web"}}


@pytest.mark.parametrize("routes", [print, [print], [("feed.*", {"queue": "feeds"}), print], ["a.b.Router"], []])
def test_routes_that_are_code_are_answered(bench: Bench, routes: Any) -> None:
    assert "write [routes] in the TOML file" in told(bench.app, {"task_routes": routes})


def test_annotations_are_sections_of_their_tasks(bench: Bench) -> None:
    given = {"*": {"max_retries": 5}, "shop.mail": {"rate_limit": "10/m", "time_limit": 30}}
    text = told(bench.app, {"task_annotations": given, "task_acks_late": True})
    assert tomllib.loads(text.partition("\n")[2]) == {
        "tasks": {"max_retries": 5, "acks_late": True, "shop.mail": {"rate_limit": "10/m", "time_limit": 30}}
    }
    assert 'write [tasks."name"]' in told(bench.app, {"task_annotations": [print]})


class Crontab:
    """Has what a `crontab` of Celery's has."""

    def __init__(self, minute: object = "*", hour: object = "*", day_of_week: object = "*") -> None:
        self._orig_minute, self._orig_hour, self._orig_day_of_week = minute, hour, day_of_week
        self._orig_day_of_month = self._orig_month_of_year = "*"


@pytest.mark.parametrize(
    ("schedule", "when"),
    [
        (Crontab(minute=0, hour=3), "0 3 * * *"),
        (Crontab(minute="*/15", hour="8, 9", day_of_week="mon-fri"), "*/15 8,9 * * mon-fri"),
        (60, "* * * * *"),
        (timedelta(minutes=10), "*/10 * * * *"),
        (SimpleNamespace(run_every=timedelta(hours=6)), "0 */6 * * *"),
        (timedelta(hours=1), "0 * * * *"),
        (timedelta(days=1), "0 0 * * *"),
    ],
)
def test_a_beat_schedule_is_told_as_lines_for_cron(bench: Bench, schedule: Any, when: str) -> None:
    text = told(bench.app, {"beat_schedule": {"nightly": {"task": "shop.close", "schedule": schedule}}})
    assert text.splitlines()[1:] == [f"{when} cd /path/to/project && .venv/bin/engine send shop.close"]


@pytest.mark.parametrize("schedule", [30.0, timedelta(minutes=7), timedelta(days=2), object()])
def test_what_cron_has_no_words_for_is_a_comment(bench: Bench, schedule: Any) -> None:
    (line,) = told(bench.app, {"beat_schedule": {"a": {"task": "shop.close", "schedule": schedule}}}).splitlines()[1:]
    assert line.startswith("#")
    assert line.endswith("engine send shop.close")


def test_arguments_and_queue_of_a_periodic_task_go_along(bench: Bench) -> None:
    entry = {
        "task": "shop.close",
        "schedule": 60,
        "args": ("50% off", 7),
        "kwargs": {"x": 1},
        "options": {"queue": "q"},
    }
    text = told(bench.app, {"beat_schedule": {"a": entry, "odd": None}})
    command = text.rpartition("&& .venv/bin/")[2].replace("\\%", "%")
    assert shlex.split(command) == [
        "engine",
        "send",
        "shop.close",
        '"50% off"',
        "7",
        "--kwargs",
        '{"x": 1}',
        "--queue",
        "q",
    ]


def test_settings_that_have_a_place_can_be_read(bench: Bench) -> None:
    bench.app.configure(Settings(broker=BrokerSection(url="redis://there"), tasks=TaskSection(queue="mail")))
    conf = bench.app.conf
    assert (conf.broker_url, conf.task_default_queue, conf["task_acks_late"]) == ("redis://there", "mail", False)
    assert conf.result_expires == 86400
    assert (conf.get("task_default_queue"), conf.get("my_own", 7), conf.get("my_own")) == ("mail", 7, None)
    assert "task_always_eager" in conf
    assert "my_own" not in conf
    for name in ("worker_max_memory_per_child", "task_default_rate_limit"):
        with pytest.raises(ConfigError, match="in other units"):
            getattr(conf, name)
    for name, says in (
        ("task_default_queu", "did you mean"),
        ("task_routes", r"\[routes\]"),
        ("beat_schedule", "cron"),
    ):
        with pytest.raises(ConfigError, match=says):
            getattr(conf, name)


def test_a_module_that_needs_celery_says_how_to_read_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", needs_kombu)
    assert "pip install kombu, and uninstall it when they are moved" in told(bench.app, "celeryconfig")


def needs_kombu(_: str) -> None:
    raise ModuleNotFoundError("No module named 'kombu'", name="kombu")
