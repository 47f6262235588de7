"""README.md and docs/: their tables are those of the code, their examples run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from document_tables import TABLES, block
from project_files import ROOT, shown

from engine.app.config.loader import load
from engine.cli.main import VERBS
from engine.demo.worker import Worker

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*PAGES, ROOT / "transports/README.md", ROOT / "plugins/README.md"]
USE = """
import tasks
assert tasks.total.apply(([9.5, 20.0],), {"discount": 0.1}).get() == 26.55
assert tasks.export.apply((3,)).get() == "3 pages"
assert tasks.total([1.0]) == 1.0
"""


def _blocks(file: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", file.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_that_of_the_code(name: str) -> None:
    page, table = TABLES[name]
    assert block(name, page.read_text()) == table(), "run tests/project/document_tables.py"


@pytest.mark.parametrize("file", DOCUMENTS, ids=shown)
def test_python_examples_compile(file: Path) -> None:
    for number, example in enumerate(_blocks(file, "python")):
        # A page that goes through a file step by step shows methods without the class around them.
        compile(textwrap.dedent(example), f"{shown(file)} example {number}", "exec")


@pytest.mark.parametrize("file", DOCUMENTS, ids=shown)
def test_toml_examples_are_toml(file: Path) -> None:
    for example in _blocks(file, "toml"):
        tomllib.loads(example)


def test_the_example_of_a_configuration_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "worker.toml").write_text(_blocks(README, "toml")[0])
    settings = load(str(tmp_path / "worker.toml"), env={}).settings
    assert (settings.engine.name, settings.engine.app, settings.worker.concurrency) == ("shop", "tasks:app", 4)


def test_the_first_tasks_run_as_written(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(_blocks(README, "python")[0])
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "transports")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", USE],
        cwd=tmp_path,
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _python(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_steps_work_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, use = _blocks(README, "python")
    (tmp_path / "tasks.py").write_text(first)
    config = tmp_path / "worker.toml"
    config.write_text(_blocks(README, "toml")[0])
    monkeypatch.setenv("ENGINE_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("ENGINE_CONFIG", str(config))
    start, send, status = (shlex.split(line)[1:] for line in _blocks(README, "console")[1].splitlines())
    assert start == ["start", "-c", "worker.toml"]
    worker = Worker(config, tmp_path)
    try:
        worker.start()
        assert "26.55" in _python(tmp_path, "-m", "engine.cli.main", *send)
        assert "shop" in _python(tmp_path, "-m", "engine.cli.main", *status)
        assert _python(tmp_path, "-W", "error", "-c", use).splitlines() == ["26.55", "PENDING"]
        worker.stop()
    finally:
        worker.end()


def test_commands_that_are_named_exist() -> None:
    text = "\n".join(file.read_text() for file in PAGES)
    used = {verb for start in ("^", "`") for verb in re.findall(rf"{start}engine ([a-z]+)", text, re.MULTILINE)}
    assert used
    assert used <= set(VERBS)


def test_scripts_that_are_named_exist() -> None:
    named = set(re.findall(r"\bscripts/(\w+)", README.read_text()))
    assert named
    assert all((ROOT / "scripts" / name).exists() for name in named)
