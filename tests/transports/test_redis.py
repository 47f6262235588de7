"""The Redis transport and its results keep to the contract."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from engine.testing.results_suite import ResultsSuite
from engine.testing.transport_suite import TransportSuite
from engine_redis import RedisResults, RedisTransport
from servers import RedisServer, redis_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of this file's own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def url(server: RedisServer) -> str:
    """An empty database."""
    server.expect("FLUSHALL")
    return server.url


class TestRedisTransport(TransportSuite):
    """The broker."""

    @pytest.fixture
    def transport(self, url: str) -> Iterator[RedisTransport]:
        """The transport under test."""
        transport = RedisTransport(url, options={})
        yield transport
        transport.close()

    @pytest.fixture
    def unreachable(self) -> Iterator[RedisTransport]:
        """A port that nobody listens on."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            transport = RedisTransport(f"redis://127.0.0.1:{taken.getsockname()[1]}/0", options={})
            yield transport
            transport.close()

    @pytest.fixture
    def results(self, url: str) -> Iterator[RedisResults]:
        """The result backend at the same server."""
        results = RedisResults(url, expires=60, options={})
        yield results
        results.close()


class TestRedisResults(ResultsSuite):
    """The results."""

    @pytest.fixture
    def results(self, url: str) -> Iterator[RedisResults]:
        """The backend under test."""
        results = RedisResults(url, expires=60, options={})
        yield results
        results.close()
