"""The files in conf/ that run the engine as a service fit the engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from project_files import ROOT

from engine.app.config.durations import seconds
from engine.app.config.loader import load
from engine.cli.main import VERBS
from engine.runtime.supervisor.shutdown import FINISH_TIMEOUT, GRACE

UNIT = (ROOT / "conf/engine.service").read_text()
COMPOSE = (ROOT / "conf/compose.yaml").read_text()
CONFIGURATIONS = sorted((ROOT / "conf").glob("*.toml"))
GRACES = 2
"""Of a shutdown: for interrupted tasks, and for killed ones to be reaped."""


def _value(text: str, key: str) -> str:
    (value,) = re.findall(rf"^\s*{re.escape(key)}\s*[=:]\s*(.+)$", text, re.MULTILINE)
    return str(value)


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.name)
def test_a_shutdown_has_the_time_that_it_may_take(file: Path) -> None:
    timeout = load(str(file), env={}).settings.worker.shutdown_timeout
    longest = timeout + GRACES * GRACE + FINISH_TIMEOUT
    assert seconds(_value(UNIT, "TimeoutStopSec")) > longest
    assert seconds(_value(COMPOSE, "stop_grace_period")) > longest


def test_verbs_that_the_service_runs_exist() -> None:
    assert set(re.findall(r"^Exec\w+=\S+/bin/engine (\w+)$", UNIT, re.MULTILINE)) == {"start", "reload"}
    assert {"start", "reload"} <= set(VERBS)


def test_only_what_may_pass_is_tried_again() -> None:
    assert _value(UNIT, "RestartPreventExitStatus").split() == ["64", "78"]
    assert _value(UNIT, "Restart") == "on-failure"


def test_the_environment_of_the_container_is_understood() -> None:
    found = dict(re.findall(r"^ +(ENGINE_\w+): (\S+)$", COMPOSE, re.MULTILINE))
    mounted, inside = re.findall(r"- (\./\S+):(\S+):ro", COMPOSE)[0]
    assert found.pop("ENGINE_CONFIG") == inside
    settings = load(str(ROOT / "conf" / mounted), env=found).settings
    assert (settings.broker.url, settings.results.url) == ("redis://redis:6379/0", "redis://redis:6379/0")
    assert (settings.engine.app, settings.engine.runtime_dir) == ("engine.demo:app", "/tmp/engine")


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze")
    # It looks for the programs, and these are only there where the engine is installed as the file says.
    unit = tmp_path / "worker.service"
    unit.write_text(UNIT.replace("/srv/shop/.venv/bin/engine", "/bin/true").replace("/srv/shop", "/tmp"))
    done = subprocess.run([tool, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    told = [line for line in done.stderr.splitlines() if "worker.service" in line]
    assert (done.returncode, told) == (0, [])
