"""``config_from_object``: the settings of a Celery project, told as TOML."""

from __future__ import annotations

import sys
import tomllib
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from app_fakes import Bench

from engine import ConfigError

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
