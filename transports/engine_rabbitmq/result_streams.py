"""What a client knows of the results it asked for: it follows the streams that they are in.

The first question for an id reads its stream from where the result can be at the earliest; from then on the reader that
follows the stream keeps it up to date. An entry counts by (order of the record, place in the stream), so it does not
matter which of the two brings it first.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from engine.contract import Record
from engine_rabbitmq import names
from engine_rabbitmq.connection import Connection
from engine_rabbitmq.streams import StreamReader
from engine_rabbitmq.topology import Topology

_MOST = 10_000
"""Results that are kept up to date; the oldest question is forgotten first."""
_MARGIN = 300.0
"""Seconds by which the clocks of client and server may differ."""


class ResultEntry(msgspec.Struct, array_like=True):
    """An entry of a stream of results. Without a record: forget what lies before."""

    until: float
    record: Record | None = None


class _Known:
    """What the stream says of one id."""

    __slots__ = ("forgotten", "offset", "record", "until")

    def __init__(self) -> None:
        self.record: Record | None = None
        self.until = 0.0
        self.offset = -1
        self.forgotten = -1

    def add(self, entry: ResultEntry, offset: int) -> None:
        if entry.record is None:
            self.forgotten = max(self.forgotten, offset)
            if self.offset < offset:
                self.record = None
        elif offset > self.forgotten and (
            self.record is None or (entry.record.order, offset) > (self.record.order, self.offset)
        ):
            self.record, self.until, self.offset = entry.record, entry.until, offset

    def get(self) -> Record | None:
        record = self.record
        return record if record is not None and record.keep and self.until > time.time() else None


class SendTimes:
    """When this process sent which tasks: their results are not older. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: OrderedDict[str, float] = OrderedDict()

    def note(self, ids: Iterable[str]) -> None:
        """Says that these are sent now."""
        now = time.time()
        with self._lock:
            for id in ids:
                self._sent[id] = now
            while len(self._sent) > _MOST:
                self._sent.popitem(last=False)

    def since(self, ids: Iterable[str]) -> float | None:
        """Returns when the first of these was sent; None if that is not known of all."""
        times = [self._sent.get(id) for id in ids]
        known = [at for at in times if at is not None]
        return min(known) if len(known) == len(times) else None


class ResultStreams:
    """The results that were asked for, over one connection. One thread asks at a time."""

    def __init__(self, connection: Connection, topology: Topology, send_times: SendTimes) -> None:
        self.changed = threading.Condition()
        self._connection = connection
        self._topology = topology
        self._send_times = send_times
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._readers: dict[str, StreamReader] = {}
        connection.on_end = lambda error: self._notify()

    def look(self, ids: Sequence[str]) -> dict[str, Record]:
        """Returns what the streams hold now. Raises BrokerUnavailable."""
        wanted: dict[str, list[str]] = {}
        for id in ids:
            wanted.setdefault(names.results(id), []).append(id)
        self._topology.results(wanted)
        for stream, there in wanted.items():
            self._read(stream, there)
        return self.found(ids)

    def found(self, ids: Iterable[str]) -> dict[str, Record]:
        """Returns what is known of these already. Raises BrokerUnavailable when the connection is gone."""
        if self._connection.error is not None:
            raise self._connection.error
        known = {id: self._known.get(id) for id in ids}
        return {id: record for id, one in known.items() if one is not None and (record := one.get()) is not None}

    def _read(self, stream: str, ids: Sequence[str]) -> None:
        new = [id for id in ids if id not in self._known]
        with self.changed:
            for id in ids:
                self._known.setdefault(id, _Known())
                self._known.move_to_end(id)
            while len(self._known) > max(_MOST, len(ids)):
                self._known.popitem(last=False)
        reader = self._readers.get(stream)
        if reader is None:
            reader = self._readers[stream] = StreamReader(self._connection, stream, self._take, "next")
        reader.read()
        if new:
            since = self._send_times.since(new)
            start = "first" if since is None else datetime.fromtimestamp(since - _MARGIN, UTC)
            scan = StreamReader(self._connection, stream, self._take, start)
            try:
                scan.read()
            finally:
                scan.close()

    def _take(self, body: bytes, properties: Any) -> None:
        known = self._known.get(properties.message_id or "")
        if known is None:
            return
        offset = int((properties.headers or {}).get("x-stream-offset", 0))
        known.add(_decode(body), offset)
        self._notify()

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()


_decode = msgspec.msgpack.Decoder(ResultEntry).decode
