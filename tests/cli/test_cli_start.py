"""What `engine start` does before anything is started."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from playground import Engine

from engine.app.config.loader import Config
from engine.runtime import boot


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations with which an engine would have been started."""
    found: list[Config] = []

    def start(config: Config) -> int:
        found.append(config)
        return 0

    monkeypatch.setattr(boot, "start", start)
    return found


def _write(folder: Path, app: str, config: str = "") -> None:
    (folder / "shop_app.py").write_text(app)
    (folder / "worker.toml").write_text(config)


def test_options_are_stronger_than_the_file(engine: Engine, folder: Path, started: list[Config]) -> None:
    both = '[broker]\nurl = "memory://"\n[results]\nurl = "none"\n'
    _write(folder, "", both + "[worker]\nconcurrency = 2\njson_logs = true\n")
    ended = engine("start", "-n", "3", "-q", "a,b", "-A", "shop_app", "-l", "debug", "--name", "x")
    assert ended.status == 0, ended.err
    settings = started[0].settings
    worker = settings.worker
    assert (worker.concurrency, worker.queues, worker.log_level, worker.json_logs) == (3, ["a", "b"], "DEBUG", True)
    assert (settings.engine.app, settings.engine.name, settings.results.url) == ("shop_app", "x", None)
    assert started[0].origins["worker.concurrency"] == "--concurrency"


def test_urls_of_the_code_are_the_weakest(engine: Engine, folder: Path, started: list[Config]) -> None:
    given = "broker='memory://code', backend='memory://code', result_expires=60"
    app = f"from engine import Engine\nprint('hello')\napp = Engine('s', {given})\n"
    _write(folder, app, '[engine]\napp = "shop_app"\n[results]\nurl = "memory://file"\n')
    assert engine("start").status == 0
    config = started[0]
    assert (config.settings.broker.url, config.settings.results.url) == ("memory://code", "memory://file")
    assert (config.origins["broker.url"], config.origins["results.url"]) == ("code", "worker.toml:4")
    assert (config.settings.results.expires, config.origins["results.expires"]) == (60, "code")
    assert config.reread().settings.broker.url == "memory://code"


def test_a_process_that_the_import_leaves_behind_is_not_waited_for(
    engine: Engine, folder: Path, started: list[Config]
) -> None:
    app = (
        "import os, time\nfrom engine import Engine\napp = Engine('s', broker='memory://code')\n"
        "pid = os.fork()\n"
        "if not pid:\n    time.sleep(20)\n    open('ended', 'w')\n    os._exit(0)\n"
        "open('pid', 'w').write(str(pid))\n"
    )
    _write(folder, app, '[engine]\napp = "shop_app"\n')
    assert engine("start").status == 0
    assert not (folder / "ended").exists()
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    assert started[0].settings.broker.url == "memory://code"


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("import yamll", "engine: [engine] app: shop_app.py:1: ModuleNotFoundError: No module named 'yamll'\n"),
        ("import os\nos._exit(5)", "engine: [engine] app: the import of shop_app ended with status 5\n"),
    ],
)
def test_code_that_cannot_be_asked(engine: Engine, folder: Path, started: list[Config], app: str, said: str) -> None:
    _write(folder, app, '[engine]\napp = "shop_app"\n')
    ended = engine("start")
    assert (ended.status, ended.err, started) == (78, said, [])


def test_what_booting_returns_is_the_exit_status(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: Any) -> int:
        return 75

    monkeypatch.setattr(boot, "start", start)
    _write(folder, "", '[engine]\napp = "shop_app"\n[broker]\nurl = "x:"\n[results]\nurl = "x:"\n')
    assert engine("start").status == 75
