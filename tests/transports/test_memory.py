"""The memory transport and its results keep to the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.testing.results_suite import ResultsSuite
from engine.testing.transport_suite import TransportSuite
from engine_memory import MemoryResults, MemoryTransport


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A broker of the test's own."""
    return f"memory://{tmp_path}"


class TestMemoryTransport(TransportSuite):
    """The broker in this process."""

    @pytest.fixture
    def transport(self, url: str) -> MemoryTransport:
        """The transport under test."""
        return MemoryTransport(url, options={})

    @pytest.fixture
    def results(self, url: str) -> MemoryResults:
        """The result backend beside it."""
        return MemoryResults(url, expires=60, options={})


class TestMemoryResults(ResultsSuite):
    """The results in this process."""

    @pytest.fixture
    def results(self, url: str) -> MemoryResults:
        """The backend under test."""
        return MemoryResults(url, expires=60, options={})
