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
from engine_rabbitmq.faults import Refused
from engine_rabbitmq.loop import Loop
from engine_rabbitmq.messages import Outgoing
from engine_rabbitmq.sender import Sender, Sending
from engine_rabbitmq.shelf import Fresh, Kept, Shelf
from engine_rabbitmq.topology import RESULTS_DAYS, Topology

FRESH = Fresh()
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
        self._writing: tuple[Loop, Sender, Topology] | None = None
        self._reading: tuple[Loop, Shelf] | None = None
        self._opening = threading.Lock()
        self._pid = os.getpid()

    def store(self, records: Sequence[Record]) -> None:
        """See `ResultBackend.store`."""
        until = time.time() + self.expires
        self._append([(record.id, Kept(until, record)) for record in records])

    def get(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """See `ResultBackend.get`."""
        return self._shelf().look(ids)

    def wait(self, ids: Sequence[str], timeout: float) -> Iterator[Record]:
        """See `ResultBackend.wait`."""
        deadline = time.monotonic() + timeout
        left = list(dict.fromkeys(ids))
        shelf = self._shelf()
        found = shelf.look(left)
        while left:
            final = [record for record in found.values() if record.final]
            for record in final:
                left.remove(record.id)
            yield from final
            now = time.monotonic()
            if not left or now >= deadline:
                return
            with shelf.changed:
                found = shelf.found(left)
                if not any(record.final for record in found.values()):
                    shelf.changed.wait(min(_LOOK, deadline - now))
            found = shelf.found(left)

    def forget(self, ids: Sequence[str]) -> None:
        """See `ResultBackend.forget`."""
        until = time.time() + self.expires
        self._append([(id, Kept(until)) for id in ids])

    def check(self) -> Sequence[str]:
        """See `ResultBackend.check`."""
        try:
            loop, _, _ = self._writer()
        except Refused as error:
            raise ConfigError(str(error)) from error
        notes = []
        if self.expires > RESULTS_DAYS * 86400:
            notes.append(f"{loop.address.place} keeps results for {RESULTS_DAYS} days at most: lower [results] expires")
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

    def _append(self, entries: Sequence[tuple[str, Kept]]) -> None:
        if not entries:
            return
        _, sender, topology = self._writer()
        topology.results({names.results(id) for id, _ in entries})
        items = [_outgoing(id, kept) for id, kept in entries]
        if sender.send(Sending(items)):
            topology.forget_results()
            raise TransportError(f"{self._address.place}: a stream of results was deleted: it is declared again")

    def _writer(self) -> tuple[Loop, Sender, Topology]:
        with self._opening:
            if self._writing is None or self._writing[0].error is not None:
                loop = Loop(self._address, "results")
                loop.open()
                sender = Sender(loop)
                sender.open()
                self._writing = (loop, sender, Topology(loop, "quorum", None))
            return self._writing

    def _shelf(self) -> Shelf:
        with self._opening:
            if self._reading is None or self._reading[0].error is not None:
                loop = Loop(self._address, "waiting for results")
                shelf = Shelf(loop, Topology(loop, "quorum", None), FRESH)
                loop.open()
                self._reading = (loop, shelf)
            return self._reading[1]


def _outgoing(id: str, kept: Kept) -> Outgoing:
    properties = pika.BasicProperties(delivery_mode=2, message_id=id)
    return Outgoing("", names.results(id), _encode(kept), properties, "", 0)
