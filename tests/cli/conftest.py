"""Running verbs inside the test's process, and a broker that they find."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.app.settings import Settings
from engine.cli import main
from engine.contract.message import VERSION, Message
from engine.contract.transport import Dead, Worker
from engine_memory import MemoryTransport


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[list[str]]:
        """What it printed, as words."""
        return [line.split() for line in self.out.splitlines()]


Engine = Callable[..., Ended]


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


class Board:
    """A broker in this process, and what a test puts into it."""

    def __init__(self, transport: MemoryTransport, worker: Worker) -> None:
        self.transport = transport
        self.worker = worker

    def send(self, id: str, queue: str = "default", **fields: Any) -> None:
        """Publishes a message."""
        message = Message(version=VERSION, id=id, task="shop.bill", sent=1e9, queue=queue, **fields)
        self.transport.publish([message.envelope()])

    def kill(self, id: str, reason: str, queue: str = "default") -> None:
        """Makes a dead letter."""
        self.send(id, queue)
        consumer = self.transport.consume([queue], self.worker)
        consumer.settle([Dead(delivery.claim, reason) for delivery in consumer.fetch(1, 1.0)])
        consumer.close()


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
