"""Fixtures of the app's unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from app_fakes import Bench

from engine.app import registry


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """An engine with a broker and a result backend in lists."""
    monkeypatch.delenv("ENGINE_CONFIG", raising=False)
    monkeypatch.delenv("ENGINE_BROKER_URL", raising=False)
    with registry.isolated():
        yield Bench()
