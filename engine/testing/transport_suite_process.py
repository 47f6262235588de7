"""The other process in the transport suite: ``python -m engine.testing.transport_suite_process ORDER``.

ORDER is JSON: which transport to open, the worker to be, the action and its arguments. It says what it has done, a line
each; what it says is done for whoever reads it. Then it waits to be killed.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from engine.contract import Ack, Again, Delivery, Envelope, Transport, Worker


def main(order: dict[str, Any]) -> None:
    """Opens the transport, holds the worker's lock, and does what the order says."""
    kind = importlib.import_module(order["module"])
    for part in order["name"].split("."):
        kind = getattr(kind, part)
    transport: Transport = kind(order["url"], options=order["options"])  # type: ignore[operator]  # a class by now
    worker = Worker(**order["worker"])
    lock = os.open(worker.lock, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _ACTIONS[order["action"]](transport, worker, *order["arguments"])
    while True:
        signal.pause()


def say(*words: str) -> None:
    """Tells the test what was done."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def publish(transport: Transport, worker: Worker, *ids: str) -> None:
    """Sends a message for each id."""
    transport.publish([Envelope(id=id, body=id.encode()) for id in ids])
    say("published")


def claim(transport: Transport, worker: Worker, count: str, started: str) -> None:
    """Claims messages, and says of the first ``started`` that their runs have begun."""
    consumer = transport.consume(["default"], worker)
    consumer.reconcile(())
    taken: list[Delivery] = []
    while len(taken) < int(count):
        taken.extend(consumer.fetch(int(count) - len(taken), 0.5))
    consumer.renew([delivery.claim for delivery in taken[: int(started)]])
    say("claimed", *(delivery.id for delivery in taken))
    say("ready")


def look(transport: Transport, worker: Worker) -> None:
    """Says how many messages the default queue has."""
    say(str(transport.counts(["default"])["default"].ready))


def work(transport: Transport, worker: Worker) -> None:
    """Fetches and settles without end; a message "again" is retried once. Says what it has fetched, and settled."""
    consumer = transport.consume(["default"], worker)
    consumer.reconcile(())
    say("working")
    while True:
        taken = consumer.fetch(5, 0.2)
        if not taken:
            say("idle")
        else:
            say("fetched", *(delivery.id for delivery in taken))
            consumer.renew([delivery.claim for delivery in taken])
            consumer.settle([_end(delivery) for delivery in taken])
            say("settled", *(delivery.id for delivery in taken if not _is_retried(delivery)))


def _is_retried(delivery: Delivery) -> bool:
    return delivery.body.startswith(b"again")


def _end(delivery: Delivery) -> Ack | Again:
    if _is_retried(delivery):
        return Again(delivery.claim, Envelope(id=delivery.id, body=b"once", due=time.time() + 0.01))
    return Ack(delivery.claim)


_ACTIONS: dict[str, Callable[..., None]] = {"publish": publish, "claim": claim, "look": look, "work": work}

if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
