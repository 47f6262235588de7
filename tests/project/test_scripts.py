"""The scripts: what they accept, and that no folder of tests is forgotten."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from project_files import ROOT

SCRIPTS = [file for folder in ("scripts", ".ci") for file in sorted((ROOT / folder).iterdir()) if file.is_file()]
NOT_RUN = frozenset({"typing"})
"""Folders of tests that are checked by mypy."""


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_executable_and_parses(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_bytes().startswith(b"#!/usr/bin/env bash"), (
        "what needs the engine is started by a script that sets it up"
    )
    done = _run("bash", "-n", script)
    assert done.returncode == 0, done.stderr


def test_every_folder_of_tests_is_a_stage() -> None:
    stages = _run(ROOT / "scripts/test", "--list").stdout.split()
    folders = {folder.name for folder in (ROOT / "tests").iterdir() if any(folder.glob("test_*.py"))}
    assert folders - NOT_RUN <= set(stages)


def test_an_unknown_stage_is_wrong_usage() -> None:
    done = _run(ROOT / "scripts/test", "no-such-stage")
    assert done.returncode == 64
    assert 'no stage "no-such-stage"; there are: ruff' in done.stderr


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--venv"]])
def test_setup_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    done = _run(ROOT / "scripts/setup", *arguments)
    assert done.returncode == 64
    assert done.stderr.startswith("scripts/setup: ")


@pytest.mark.parametrize("script", ["bench", "chaos", "measure", "outages", "servers", "setup", "test"])
def test_scripts_say_what_they_are_for_in_any_shell(script: str) -> None:
    done = _run("env", "-i", f"PATH={os.defpath}", f"HOME={Path.home()}", ROOT / "scripts" / script, "--help")
    assert done.returncode == 0
    assert f"scripts/{script} " in done.stdout
