"""What only the engine is measured at: sizes, mixtures, depths, numbers of children and queues."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def scenarios(options: argparse.Namespace, rounds: int) -> dict[str, tuple[Any, int, Callable[..., bool]]]:
    """Returns by name what is measured, how often, and who takes part."""
    return {}
