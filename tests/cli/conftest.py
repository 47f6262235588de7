"""Running verbs inside the test's process, and a broker that they find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playground import Board, Ended, Engine

from engine.app.settings import Settings
from engine.cli import main
from engine.contract.transport import Worker
from engine_memory import MemoryTransport


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with nothing in it and nothing in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name in ("ENGINE_CONFIG", "ENGINE_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> Engine:
    """Runs ``engine ...`` and returns how it ended."""

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        status = main.run(list(arguments))
        out, err = capsys.readouterr()
        return Ended(status, out, err)

    return run


@pytest.fixture
def board(folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """A broker that all verbs of this test are connected to."""
    transport = MemoryTransport(f"memory://{request.node.name}", options={})

    def connected(settings: Settings) -> MemoryTransport:
        assert isinstance(settings, Settings)
        return transport

    monkeypatch.setattr("engine.cli.options.transport_for", connected)
    yield Board(transport, Worker("test", "here", "boot", str(folder / "lock")))
    transport.close()
