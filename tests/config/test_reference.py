"""The list of settings is complete, and the shipped configuration shows every one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from engine.app.config.loader import load
from engine.app.config.reference import settings
from engine.app.config.sources import all_keys, variable

SHIPPED = Path(__file__).parents[2] / "conf/worker.toml"


def test_every_setting_is_listed_with_its_documentation() -> None:
    listed = settings()
    assert [f"{setting.section}.{setting.key}" for setting in listed if setting.section != "routes"] == all_keys()
    for setting in listed:
        assert setting.doc.endswith((".", ")")), setting
        assert setting.type


def test_defaults_are_written_as_toml() -> None:
    for setting in settings():
        if setting.default:
            assert tomllib.loads(f"x = {setting.default}")


def test_known_settings() -> None:
    listed = {(setting.section, setting.key): setting for setting in settings()}
    assert listed["worker", "shutdown_timeout"].default == '"30s"'
    assert listed["worker", "shutdown_timeout"].type == "duration"
    assert listed["worker", "shutdown_timeout"].variable == "ENGINE_WORKER_SHUTDOWN_TIMEOUT"
    assert listed["engine", "app"].variable == variable("engine", "app") == "ENGINE_APP"
    assert listed["tasks", "default_retry_delay"].default == '"3m"'
    assert listed["tasks", "acks_late"].default == "false"


def test_the_shipped_configuration_is_accepted() -> None:
    config = load(str(SHIPPED), env={})
    assert config.settings.engine.app == "engine.demo:app"
    assert config.settings.tasks.acks_late is True


def test_the_shipped_configuration_shows_every_setting() -> None:
    shown: dict[str, set[str]] = {}
    section = ""
    for line in SHIPPED.read_text().splitlines():
        if header := re.match(r"(?:# )?\[(\w+)\]", line):
            section = header[1]
        if key := re.match(r"(?:# )?(\w+)\s+= |(?:# )?(\w+) = ", line):
            shown.setdefault(section, set()).add(key[1] or key[2])
    for setting in settings():
        if setting.section != "routes":
            assert setting.key in shown[setting.section], f"[{setting.section}] {setting.key}"


def test_what_is_commented_out_is_accepted_too(tmp_path: Path) -> None:
    lines = [re.sub(r"^# (?=\[|\w+ = |\")", "", line) for line in SHIPPED.read_text().splitlines()]
    (tmp_path / "all.toml").write_text("\n".join(lines))
    settings = load(str(tmp_path / "all.toml"), env={}).settings
    assert settings.plugins.load == ["./my_transport.py"]
    assert settings.routes == {"reports.*": "slow"}
    assert settings.tasks.max_retries == 3
