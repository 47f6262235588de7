"""Clients reach a broker by its URL, or through the engine it lives in."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.app.connect import results_for, transport_for
from engine.app.settings import BrokerSection, EngineSection, PluginsSection, ResultsSection, Settings
from engine.errors import BrokerUnavailable, ConfigError

POST = """
from engine.contract import Capabilities, ResultBackend, Transport, hookimpl

class Post(Transport):
    capabilities = Capabilities()

class Slate(ResultBackend):
    pass

Post.__abstractmethods__ = Slate.__abstractmethods__ = frozenset()

@hookimpl
def engine_transport(scheme):
    return Post if scheme == "post" else None

@hookimpl
def engine_results(scheme):
    return Slate if scheme == "post" else None
"""


def _settings(tmp_path: Path, url: str | None) -> Settings:
    (tmp_path / "post.py").write_text(POST)
    return Settings(
        engine=EngineSection(name="demo", runtime_dir=str(tmp_path / "run")),
        broker=BrokerSection(url),
        results=ResultsSection(url),
        plugins=PluginsSection(load=[str(tmp_path / "post.py")]),
    )


def test_a_broker_of_its_own(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "post://box")
    assert type(transport_for(settings)).__name__ == "Post"
    assert type(results_for(settings)).__name__ == "Slate"


def test_a_broker_inside_an_engine_that_is_not_up(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "memory://")
    with pytest.raises(BrokerUnavailable, match="none called 'demo' is up: start it with `engine start`"):
        transport_for(settings)
    backend = results_for(settings)
    assert backend is not None
    with pytest.raises(BrokerUnavailable, match="none called 'demo' is up"):
        backend.get(["x"])


def test_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no broker"):
        transport_for(_settings(tmp_path, None))
    assert results_for(_settings(tmp_path, None)) is None
