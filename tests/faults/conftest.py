"""Rigs for tests of faults, one for each transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults_rig import Rig

from engine.testing.faults.proxy import Proxy

TRANSPORTS = ["memory", "sqlite", "redis", "rabbitmq"]
SERVERS = ["redis", "rabbitmq"]


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes rigs, and ends them."""
    open_rigs: list[Rig] = []

    def rig(transport: str, **options: Any) -> Rig:
        open_rigs.append(Rig(tmp_path, transport, **options))
        return open_rigs[-1]

    yield rig
    for one in open_rigs:
        one.close()


@pytest.fixture(params=TRANSPORTS)
def rig(request: pytest.FixtureRequest, rigs: Callable[..., Rig]) -> Rig:
    """A rig for each transport, with no engine started."""
    return rigs(request.param)


@pytest.fixture
def redis(rigs: Callable[..., Rig]) -> Rig:
    """A rig on Redis."""
    return rigs("redis")


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest, rigs: Callable[..., Rig]) -> Rig:
    """A rig for each transport that has a server, to be killed."""
    return rigs(request.param)


@pytest.fixture(params=SERVERS)
def proxied(request: pytest.FixtureRequest, rigs: Callable[..., Rig]) -> Rig:
    """A rig for each transport that has a server, whose engine goes through a proxy."""
    return rigs(request.param, through=Proxy)
