"""The SQLite transport and its results keep to the contract."""

from __future__ import annotations

import contextlib
import sqlite3
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
    def unreachable(self, tmp_path: Path) -> Iterator[SqliteTransport]:
        """A file that somebody else keeps locked."""
        file = tmp_path / "locked.db"
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            transport = SqliteTransport(f"sqlite:///{file}", options={"busy_timeout": 0.05})
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
