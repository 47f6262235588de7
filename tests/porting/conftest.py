"""The project runs on each transport, in a real worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.testing import Worker, worker

pytest.importorskip("pydantic")
# Where the servers are that transports are tested with.
sys.path.append(str(Path(__file__).resolve().parents[1] / "transports"))

BROKERS = ("memory", "sqlite", "redis", "rabbitmq")


def _url(kind: str, folder: Path) -> Iterator[str]:
    if kind == "redis":
        from servers import redis_server

        with redis_server(folder) as server:
            yield server.url
    elif kind == "rabbitmq":
        from rabbit_server import shared

        yield shared().url_of(shared().virtual_host())
    else:
        yield {"memory": "memory://", "sqlite": f"sqlite:///{folder}/engine.db"}[kind]


@pytest.fixture(scope="session", params=BROKERS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker for the project: the operator's configuration names another broker than the project's code."""
    for url in _url(request.param, tmp_path_factory.mktemp(request.param)):
        with worker("proj.celery_app", broker=url) as made:
            yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Documents and e-mails of one test."""
    return tmp_path
