"""What a process knows of queues and revocations: two streams that everybody reads from their start, folded.

``engine.queues`` says which queues and levels there are, which are paused, and when they were purged;
``engine.revoked`` says which tasks are not to run, and carries commands to workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


class QueueFact(msgspec.Struct, omit_defaults=True):
    """An entry of the stream of queues: the queue exists, and what is said about it."""

    queue: str
    level: int | None = None
    """This level is in use."""
    paused: bool | None = None
    purged: float | None = None
    """What was delayed before this time is not to run."""


class Order(msgspec.Struct, omit_defaults=True):
    """An entry of the stream of revocations: ids that are not to run, or a command to the workers that are up."""

    ids: list[str] = []
    until: float = 0.0
    command: bytes = b""
    at: float = 0.0
    """When the command was given, in seconds since the epoch."""


_fact = msgspec.json.Decoder(QueueFact)


class KnownQueue:
    """What is known of one queue."""

    def __init__(self) -> None:
        self.levels: set[int] = {0}
        self.paused = False
        self.purged = 0.0


class Catalogue:
    """One for a transport: whoever reads a stream adds to it. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, KnownQueue] = {}
        self._revoked: dict[str, float] = {}
        self._prune_at = 10_000
        self.version = 0
        """Grows with each change of what is to be fetched."""

    def learn(self, fact: QueueFact) -> None:
        """Adds a fact."""
        with self._lock:
            known = self._queues.get(fact.queue)
            if known is None:
                known = self._queues[fact.queue] = KnownQueue()
            before = (len(known.levels), known.paused)
            if fact.level is not None:
                known.levels = known.levels | {fact.level}
            if fact.paused is not None:
                known.paused = fact.paused
            if fact.purged is not None:
                known.purged = max(known.purged, fact.purged)
            self.version += before != (len(known.levels), known.paused)

    def read(self, entry: bytes) -> None:
        """Adds an entry of the stream of queues. Raises msgspec.MsgspecError for one that is none of ours."""
        self.learn(_fact.decode(entry))

    def queue(self, name: str) -> KnownQueue | None:
        """Returns what is known of a queue."""
        return self._queues.get(name)

    def queues(self) -> list[str]:
        """Returns the names of all queues, sorted."""
        with self._lock:
            return sorted(self._queues)

    def revoke(self, ids: Iterable[str], until: float) -> None:
        """Adds revocations."""
        now = time.time()
        if until <= now:
            return
        with self._lock:
            self._revoked.update((id, max(until, self._revoked.get(id, 0.0))) for id in ids)
            if len(self._revoked) > self._prune_at:
                self._revoked = {id: end for id, end in self._revoked.items() if end > now}
                self._prune_at = max(10_000, 2 * len(self._revoked))

    def is_revoked(self, id: str) -> bool:
        """Says whether an id is not to run."""
        return bool(self._revoked) and self._revoked.get(id, 0.0) > time.time()

    def is_purged(self, queue: str, headers: Mapping[str, Any]) -> bool:
        """Says whether a message was delayed before a purge of its queue."""
        sent = headers.get("engine-sent")
        known = self._queues.get(queue)
        return known is not None and isinstance(sent, int) and sent / 1e6 <= known.purged
