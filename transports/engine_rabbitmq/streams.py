"""Reading a stream, exactly: everything that was in it, and then what comes.

A request on the reading channel is answered after everything that the stream held before it (up to the prefetch window)
was delivered. So whoever reads asks until an answer brings nothing new.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from engine_rabbitmq.channel import Channel
from engine_rabbitmq.connection import Connection

log = logging.getLogger("engine.rabbitmq")
_WINDOW = 1000
_BARRIER: tuple[str, dict[str, Any]] = ("basic_qos", {"prefetch_count": _WINDOW})


class StreamReader:
    """Follows one stream over one connection, from its start or from ``start`` on (as x-stream-offset takes it)."""

    def __init__(
        self, connection: Connection, stream: str, take: Callable[[bytes, Any], None], start: str | datetime = "first"
    ) -> None:
        self._connection = connection
        self._channel = Channel(connection, lambda raw: raw.add_on_cancel_callback(self._lost))
        self._channel.on_closed = self._lost
        self._stream = stream
        self._take = take
        """Called in the connection's thread for each entry, with its body and properties."""
        self._start = start
        self._count = 0
        self._reading = False
        self._closing = False

    def read(self) -> None:
        """Returns when everything has been taken that was in the stream before this call. Not for the connection's own
        thread."""
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
        if self._connection.error is None and not self._connection.closing and not self._closing:
            self._connection.abort(f"stream {self._stream} cannot be read any more: {why}")

    def _on_entry(self, raw: Any, method: Any, properties: Any, body: bytes) -> None:
        self._count += 1
        raw.basic_ack(method.delivery_tag)
        try:
            self._take(body, properties)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            log.warning("stream %s: an entry that is none of ours is passed over: %r", self._stream, body[:100])
