"""What the tests of the Redis transport share: workers, messages, and a server without memory."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from engine.contract import Ack, Consumer, Delivery, Envelope, Record, Transport, Worker
from engine.testing.faults.proxy import Proxy
from servers import RedisServer

QUEUE = "default"
DEADLINE = 20.0


def worker(**fields: Any) -> Worker:
    """Returns a new worker that nothing is known of but its heartbeat."""
    known = {"host": socket.gethostname(), "boot_id": "boot", "lock": "/nonexistent", "dead_after": 30.0}
    return Worker(id=f"worker-{os.urandom(4).hex()}", **{**known, **fields})


def consumer_of(transport: Transport, *queues: str, worker: Worker | None = None) -> Consumer:
    """Returns a consumer that is up."""
    consumer = transport.consume(queues or (QUEUE,), worker or globals()["worker"]())
    consumer.reconcile(())
    return consumer


def publish(transport: Transport, *ids: str, body: bytes = b"{}", **fields: Any) -> None:
    """Sends one message for each id."""
    transport.publish([Envelope(id, body, **fields) for id in ids])


def take(consumer: Consumer, count: int) -> list[Delivery]:
    """Fetches until there are ``count``."""
    taken: list[Delivery] = []
    deadline = time.monotonic() + DEADLINE
    while len(taken) < count:
        assert time.monotonic() < deadline, f"waited for {count} messages, got {taken}"
        taken += consumer.fetch(count - len(taken), 0.2)
    return taken


def ack_all(consumer: Consumer, count: int) -> list[str]:
    """Fetches ``count`` messages and acknowledges them; returns their ids."""
    taken = take(consumer, count)
    assert consumer.settle([Ack(delivery.claim) for delivery in taken]) == []
    return [delivery.id for delivery in taken]


def record(id: str, body: bytes = b"{}") -> Record:
    """Returns a final record."""
    return Record(id, "SUCCESS", 1.0, 0, 1, body, True)


def url_of(proxy: Proxy) -> str:
    """Returns the URL of the Redis behind a proxy."""
    return f"redis://127.0.0.1:{proxy.port}/0"


def put_pressure(server: RedisServer) -> None:
    """Lets the server have less memory than it uses."""
    server.expect("CONFIG", "SET", "maxmemory", int(server.info()["used_memory"]) // 2)
