"""Where the project's files are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("engine", "transports", "plugins", "tests", "scripts")
PRODUCT_FOLDERS = (*SOURCE_FOLDERS, "conf", "docs", ".ci")


def python_files(*folders: str) -> Iterator[Path]:
    """Yields the Python files below these folders of the project."""
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def product_files() -> Iterator[Path]:
    """Yields every file of the project that is no product of a tool."""
    yield from (file for file in sorted(ROOT.iterdir()) if file.is_file())
    for folder in PRODUCT_FOLDERS:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file


def shown(file: Path) -> str:
    """Returns the path as the messages of a test should show it."""
    return str(file.relative_to(ROOT))
