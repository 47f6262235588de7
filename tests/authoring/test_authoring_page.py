"""The transport that transports/README.md builds: as it stands there it passes the suite, and an engine runs on it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from module_runs import run
from pages import PAGE, TEMPLATE, file_of

from engine import Engine
from engine.app.config.loader import load
from engine.testing.harness import EngineProcess, wait_for

TASKS = """
import os, time
from pathlib import Path
from engine import Engine

app = Engine("spool")

@app.task
def add(x, y):
    return x + y

@app.task(bind=True)
def later(self, x):
    if self.request.retries == 0:
        raise self.retry(countdown=0.2)
    return x, self.request.retries

@app.task
def wait_for_file(name):
    while not Path(name).exists():
        time.sleep(0.01)
    return os.getpid()
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineProcess]:
    """A folder with the files of the page, and the engine that is to run there."""
    for name in ("spool.py", "test_spool.py"):
        (tmp_path / name).write_text(file_of(name))
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    engine = EngineProcess(tmp_path, file_of("worker.toml"), env={"ENGINE_RUNTIME_DIR": str(tmp_path / "run")})
    yield engine
    engine.close()


def test_the_template_is_the_code_of_the_page() -> None:
    assert TEMPLATE.read_text() == file_of("spool.py"), f"run tests/authoring/pages.py, or change {PAGE}"


def test_it_keeps_to_the_contract(site: EngineProcess) -> None:
    done = run(site.folder, "pytest", "-q", "test_spool.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_check_finds_no_fault(site: EngineProcess) -> None:
    done = run(site.folder, "engine.cli.main", "plugin", "check", "./spool.py", "--url", "spool://broker", "--json")
    findings = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert {finding["level"] for finding in findings} == {"ok", "note"}
    assert any("SpoolConsumer implements Consumer" in finding["text"] for finding in findings)


def _client(site: EngineProcess) -> Engine:
    app = Engine("client")
    app.configure(load(str(site.config), env={}).settings)
    return app


def test_an_engine_runs_on_it(site: EngineProcess) -> None:
    site.start()
    app = _client(site)
    sums = [app.send_task("tasks.add", (n, n)) for n in range(100)]
    later = app.send_task("tasks.later", (7,))
    assert [one.get(timeout=20) for one in sums] == [2 * n for n in range(100)]
    assert later.get(timeout=20) == [7, 1]
    delayed = app.send_task("tasks.add", (1, 1), countdown=3600)
    command = ("engine.cli.main", "scheduled", "-c", str(site.config), "--json")
    assert delayed.id in run(site.folder, *command).stdout
    delayed.revoke()
    assert delayed.get(timeout=20, propagate=False) is not None
    assert delayed.state == "REVOKED"
    app.close()
    assert site.stop() == 0
    site.assert_nothing_left()
    assert os.listdir("broker/waiting") == os.listdir("broker/claims") == os.listdir("broker/bodies") == []


def test_what_a_killed_engine_held_runs_in_the_next(site: EngineProcess) -> None:
    site.start()
    app = _client(site)
    held = app.send_task("tasks.wait_for_file", (str(site.folder / "go"),))
    wait_for(lambda: site.running("tasks.wait_for_file"), "the task to run")
    site.kill_tree()
    (site.folder / "go").touch()
    site.start()
    assert held.get(timeout=20) > 0
    app.close()
    assert site.stop() == 0
