"""The layers hold: contract <- app <- runtime <- cli, and plugins hang off the contract."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from project_files import ROOT, python_files, shown

TRANSPORTS = sorted(folder.name for folder in (ROOT / "transports").iterdir() if (folder / "__init__.py").exists())


def test_import_linter_is_content() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    assert command.exists(), "import-linter is not installed: run scripts/setup"
    path = os.pathsep.join([str(ROOT), str(ROOT / "transports"), str(ROOT / "plugins")])
    done = subprocess.run(
        [command, "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_transport_is_looked_at() -> None:
    """A package that pyproject.toml does not name would be checked, and shipped, by nobody."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(TRANSPORTS) <= set(settings["tool"]["importlinter"]["root_packages"])
    assert {f"transports/{name}" for name in TRANSPORTS} <= set(shipped)


@pytest.mark.parametrize("package", TRANSPORTS)
def test_a_transport_imports_the_contract_and_the_errors_only(package: str) -> None:
    """A client library of its own, and the standard library, besides: import-linter cannot say "nothing else"."""
    wrong = []
    for file in python_files(f"transports/{package}"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name in _imported(node):
                if name.split(".")[0] == "engine" and not name.startswith(("engine.contract", "engine.errors")):
                    wrong.append(f"{shown(file)}:{node.lineno} {name}")
    assert wrong == []


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []
