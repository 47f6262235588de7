"""Whether tracebacks are wanted where one line is told."""

from __future__ import annotations

import os


def debugging() -> bool:
    """Does ENGINE_DEBUG ask for tracebacks?"""
    return os.environ.get("ENGINE_DEBUG", "0") not in ("", "0")
