"""The verbs against a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.testing.harness import EngineProcess, toml

APP = """
import time
from engine import Engine
app = Engine("shop")

@app.task
def add(x, y): return x + y

@app.task
def fail(): raise ValueError("no such order")

@app.task
def sleep(seconds): time.sleep(seconds)
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["memory://", "sqlite:///engine.db"], ids=["memory", "sqlite"])
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[EngineProcess]:
    path = [str(ROOT / part) for part in (".", "transports", "plugins")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    (tmp_path / "shop.py").write_text(APP)
    engine = EngineProcess(tmp_path, toml("shop", broker=request.param))
    try:
        yield engine.start()
    finally:
        engine.close()


def _engine(running: EngineProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine.cli.main", *arguments],
        cwd=running.folder,
        env=running.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_session(running: EngineProcess) -> None:
    added = _engine(running, "send", "shop.add", "1", "2", "--wait", "--json", "--timeout", "20s")
    assert (added.returncode, json.loads(added.stdout)["result"]) == (0, 3)

    failed = _engine(running, "send", "shop.fail", "--wait", "--timeout", "20s")
    assert failed.returncode == 1
    assert "error:      ValueError: no such order" in failed.stdout

    later = _engine(running, "send", "shop.add", "1", "2", "--countdown", "1h").stdout.strip()
    assert later in _engine(running, "scheduled").stdout
    assert json.loads(_engine(running, "result", later, "--json").stdout)["place"] == "delayed"
    assert _engine(running, "revoke", later).returncode == 0
    told = json.loads(_engine(running, "result", later, "--json").stdout)
    assert "place" not in told
    if "sqlite" in running.config.read_text():
        assert told["state"] == "REVOKED"
    assert json.loads(_engine(running, "queues", "--json").stdout)["default"]["delayed"] == 0

    unknown = _engine(running, "send", "shop.odd", "--no-import").stdout.strip()
    assert _engine(running, "result", unknown, "--wait", "--timeout", "20s").returncode == 1
    (letter,) = json.loads(_engine(running, "dead", "list", "--json").stdout)
    assert (letter["id"], letter["task"]) == (unknown, "shop.odd")

    status = json.loads(_engine(running, "status", "--json").stdout)
    assert (status["name"], status["state"], len(status["slots"])) == ("test", "running", 2)

    second = _engine(running, "start")
    assert second.returncode == 78
    assert f"an engine named 'test' is running (pid {running.pid})" in second.stderr

    stopped = _engine(running, "stop")
    assert (stopped.returncode, stopped.stderr) == (0, f"test stopped (pid {running.pid})\n")
    assert running.wait() == 0
    running.assert_nothing_left()

    gone = _engine(running, "queues")
    if "memory" in running.config.read_text():
        assert gone.returncode == 75
        assert "the broker lives inside a running engine (memory://), and none called 'test' is up" in gone.stderr
    else:
        assert gone.returncode == 0


def test_a_quick_stop_does_not_wait(running: EngineProcess) -> None:
    sent = _engine(running, "send", "shop.sleep", "600")
    assert sent.returncode == 0
    stopped = _engine(running, "stop", "--quick", "--timeout", "30s")
    assert stopped.returncode == 0, stopped.stderr
    assert running.wait() in (0, 1)
    running.assert_nothing_left()


CODED = """
from engine import Engine
app = Engine("coded", broker="memory://", backend="memory://")
print("imported")

@app.task
def add(x, y): return x + y
"""


def test_urls_that_only_the_code_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = [str(ROOT / part) for part in (".", "transports", "plugins")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    (tmp_path / "coded.py").write_text(CODED)
    engine = EngineProcess(tmp_path, '[engine]\nname = "coded"\napp = "coded"\nruntime_dir = "run"\n')
    try:
        engine.start()
        assert engine.status()["broker"] == "memory://"
        added = _engine(engine, "send", "coded.add", "1", "2", "--wait", "--json", "--timeout", "20s")
        assert added.returncode == 0, added.stderr
        assert json.loads(added.stdout.splitlines()[-1])["result"] == 3
        assert _engine(engine, "queues").returncode == 0
        assert "ok      broker   memory://" in _engine(engine, "check").stdout
        assert _engine(engine, "stop").returncode == 0
    finally:
        engine.close()
