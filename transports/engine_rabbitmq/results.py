"""``rpc://``, ``amqp://``, ``amqps://`` as result backend: for who has RabbitMQ and nothing else.

RabbitMQ has no place to look things up by a key. So the records go into 16 streams, by their ids, and whoever asks for
one reads its stream: a client that waits for results receives the sixteenth part of all of them, or more. That is fine
for some hundred results a second; beyond that, keep them in Redis.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import pika

from engine.contract import Record, ResultBackend
from engine.errors import ConfigError, TransportError
from engine_rabbitmq import names
from engine_rabbitmq.address import TLS, Address
from engine_rabbitmq.confirms import ConfirmChannel, Publication
from engine_rabbitmq.connection import Connection
from engine_rabbitmq.failures import Refused
from engine_rabbitmq.messages import Outgoing
from engine_rabbitmq.result_streams import ResultEntry, ResultStreams, SendTimes
from engine_rabbitmq.topology import RESULTS_DAYS, Topology

SEND_TIMES = SendTimes()
"""What this process has sent."""
_LOOK = 1.0
"""Seconds after which a wait looks for itself."""
_encode = msgspec.msgpack.Encoder().encode


class RabbitResults(ResultBackend):
    """Records in streams. It has two connections, each opened when it is needed: one stores, one reads."""

    options: ClassVar[Mapping[str, type]] = {**TLS, "heartbeat": float}

    def __init__(self, url: str, *, expires: float, options: Mapping[str, Any]) -> None:
        super().__init__(url, expires=expires, options=options)
        self._address = Address(url, options, section="results")
        self._writing: tuple[Connection, ConfirmChannel, Topology] | None = None
        self._reading: tuple[Connection, ResultStreams] | None = None
        self._opening = threading.Lock()
        self._pid = os.getpid()

    def store(self, records: Sequence[Record]) -> None:
        """See `ResultBackend.store`."""
        until = time.time() + self.expires
        self._append([(record.id, ResultEntry(until, record)) for record in records])

    def get(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """See `ResultBackend.get`."""
        return self._streams().look(ids)

    def wait(self, ids: Sequence[str], timeout: float) -> Iterator[Record]:
        """See `ResultBackend.wait`."""
        deadline = time.monotonic() + timeout
        left = list(dict.fromkeys(ids))
        streams = self._streams()
        found = streams.look(left)
        while left:
            final = [record for record in found.values() if record.final]
            for record in final:
                left.remove(record.id)
            yield from final
            now = time.monotonic()
            if not left or now >= deadline:
                return
            with streams.changed:
                found = streams.found(left)
                if not any(record.final for record in found.values()):
                    streams.changed.wait(min(_LOOK, deadline - now))
            found = streams.found(left)

    def forget(self, ids: Sequence[str]) -> None:
        """See `ResultBackend.forget`."""
        until = time.time() + self.expires
        self._append([(id, ResultEntry(until)) for id in ids])

    def check(self) -> Sequence[str]:
        """See `ResultBackend.check`."""
        try:
            connection, _, _ = self._writer()
        except Refused as error:
            raise ConfigError(str(error)) from error
        notes = []
        if self.expires > RESULTS_DAYS * 86400:
            notes.append(
                f"{connection.address.place} keeps results for {RESULTS_DAYS} days at most: lower [results] expires"
            )
        return notes

    def close(self) -> None:
        """See `ResultBackend.close`."""
        if self._pid != os.getpid():
            return
        with self._opening:
            writing, reading = self._writing, self._reading
            self._writing = self._reading = None
        for one in (writing, reading):
            if one is not None:
                one[0].close()

    def _append(self, entries: Sequence[tuple[str, ResultEntry]]) -> None:
        if not entries:
            return
        _, channel, topology = self._writer()
        topology.results({names.results(id) for id, _ in entries})
        items = [_outgoing(id, entry) for id, entry in entries]
        if channel.send(Publication(items)):
            topology.forget_results()
            raise TransportError(f"{self._address.place}: a stream of results was deleted: it is declared again")

    def _writer(self) -> tuple[Connection, ConfirmChannel, Topology]:
        with self._opening:
            if self._writing is None or self._writing[0].error is not None:
                connection = Connection(self._address, "results")
                connection.open()
                channel = ConfirmChannel(connection)
                channel.open()
                self._writing = (connection, channel, Topology(connection, "quorum", None))
            return self._writing

    def _streams(self) -> ResultStreams:
        with self._opening:
            if self._reading is None or self._reading[0].error is not None:
                connection = Connection(self._address, "waiting for results")
                streams = ResultStreams(connection, Topology(connection, "quorum", None), SEND_TIMES)
                connection.open()
                self._reading = (connection, streams)
            return self._reading[1]


def _outgoing(id: str, entry: ResultEntry) -> Outgoing:
    properties = pika.BasicProperties(delivery_mode=2, message_id=id)
    return Outgoing("", names.results(id), _encode(entry), properties, "", 0)
