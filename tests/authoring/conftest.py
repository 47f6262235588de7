"""Plugins as their authors have them: written, installed and tested in folders of their own, by other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(*paths: Path) -> dict[str, str]:
    """Returns an environment in which the engine, and what is in ``paths``, can be imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")}
    ours = [ROOT, ROOT / "transports", ROOT / "plugins"]
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, (*paths, *ours)))}


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs ``python -m ...`` in a folder; returns how it ended."""

    def run(folder: Path, *arguments: str, paths: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=environment(*paths),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run
