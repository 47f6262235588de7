"""The SQLite transport and its results keep to the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.testing.results_suite import ResultsSuite
from engine.testing.transport_suite import TransportSuite
from engine_sqlite import SqliteResults, SqliteTransport


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A file of the test's own."""
    return f"sqlite:///{tmp_path}/engine.db"


class TestSqliteTransport(TransportSuite):
    """The broker in a file."""

    @pytest.fixture
    def transport(self, url: str) -> Iterator[SqliteTransport]:
        """The transport under test."""
        transport = SqliteTransport(url, options={})
        yield transport
        transport.close()

    @pytest.fixture
    def results(self, url: str) -> Iterator[SqliteResults]:
        """The result backend in the same file."""
        results = SqliteResults(url, expires=60, options={})
        yield results
        results.close()


class TestSqliteResults(ResultsSuite):
    """The results in a file."""

    @pytest.fixture
    def results(self, url: str) -> Iterator[SqliteResults]:
        """The backend under test."""
        results = SqliteResults(url, expires=60, options={})
        yield results
        results.close()
