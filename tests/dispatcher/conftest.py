"""The rig as a fixture."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dispatcher_rig import Rig


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    """Each dispatcher collects garbage when it starts, and is forked from here: this spares it pytest's objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes rigs (not started), and ends them."""
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        folder = tmp_path / str(len(rigs))
        folder.mkdir()
        rigs.append(Rig(folder, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """Returns a rig with a dispatcher that runs."""
    return make_rig().start()
