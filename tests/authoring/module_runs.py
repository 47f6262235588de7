"""Commands, run as a plugin's author runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pages import ROOT


def run(folder: Path, *arguments: str, paths: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m ...`` in a folder, with the engine and what is in ``paths``; returns how it ended."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")}
    ours = [ROOT, ROOT / "transports", ROOT / "plugins"]
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": os.pathsep.join(map(str, (*paths, *ours)))},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
