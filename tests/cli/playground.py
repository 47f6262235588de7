"""What tests of verbs work with: how a command ended, and a broker to put messages into."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
