"""The two streams that everybody reads from their start: what is known of queues, and what is revoked.

Reading is exact: a request on the reading channel is answered after everything that the stream held before it (up to
the prefetch window) was delivered. So whoever reads asks until an answer brings nothing new.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from engine_rabbitmq.channel import Channel
from engine_rabbitmq.loop import Loop

log = logging.getLogger("engine.rabbitmq")
_WINDOW = 1000
_BARRIER: tuple[str, dict[str, Any]] = ("basic_qos", {"prefetch_count": _WINDOW})


class Fact(msgspec.Struct, omit_defaults=True):
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


class Known:
    """What is known of one queue."""

    def __init__(self) -> None:
        self.levels: set[int] = {0}
        self.paused = False
        self.purged = 0.0


class Ledger:
    """What the streams say, folded. One for a transport: whoever reads adds to it; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, Known] = {}
        self._revoked: dict[str, float] = {}
        self._prune_at = 10_000
        self.version = 0
        """Grows with each change of what is to be fetched."""

    def learn(self, fact: Fact) -> None:
        """Adds a fact."""
        with self._lock:
            known = self._queues.get(fact.queue)
            if known is None:
                known = self._queues[fact.queue] = Known()
            before = (len(known.levels), known.paused)
            if fact.level is not None:
                known.levels = known.levels | {fact.level}
            if fact.paused is not None:
                known.paused = fact.paused
            if fact.purged is not None:
                known.purged = max(known.purged, fact.purged)
            self.version += before != (len(known.levels), known.paused)

    def queue(self, name: str) -> Known | None:
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


class Reader:
    """Follows one stream over one connection, from its start or from ``start`` on (as x-stream-offset takes it)."""

    def __init__(
        self, loop: Loop, stream: str, take: Callable[[bytes, Any], None], start: str | datetime = "first"
    ) -> None:
        self._loop = loop
        self._channel = Channel(loop, lambda raw: raw.add_on_cancel_callback(self._lost))
        self._channel.on_closed = self._lost
        self._stream = stream
        self._take = take
        """Called in the loop's thread for each entry, with its body and properties."""
        self._start = start
        self._count = 0
        self._reading = False
        self._closing = False

    def read(self) -> None:
        """Returns when everything has been taken that was in the stream before this call. Not in the loop's thread."""
        if not self._reading:
            consume = {
                "queue": self._stream,
                "on_message_callback": self._on_entry,
                "arguments": {"x-stream-offset": self._start},
            }
            self._channel.call_all([_BARRIER, ("basic_consume", consume)])
            self._reading = True
        seen = -1
        while seen != self._count:
            seen = self._count
            self._channel.call_all([_BARRIER])

    def close(self) -> None:
        """Ends it. Any thread."""
        self._closing = True
        self._channel.close()

    def _lost(self, why: object) -> None:
        if self._loop.error is None and not self._loop.closing and not self._closing:
            self._loop.abort(f"stream {self._stream} cannot be read any more: {why}")

    def _on_entry(self, raw: Any, method: Any, properties: Any, body: bytes) -> None:
        self._count += 1
        raw.basic_ack(method.delivery_tag)
        try:
            self._take(body, properties)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            log.warning("stream %s: an entry that is none of ours is passed over: %r", self._stream, body[:100])
