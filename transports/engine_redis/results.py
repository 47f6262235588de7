"""``RedisResults``: records in Redis, beside the messages or without them."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from engine.contract import Record, ResultBackend
from engine.errors import BrokerUnavailable
from engine_redis.address import OPTIONS, parse
from engine_redis.check import look_over
from engine_redis.connection import Argument
from engine_redis.packing import pack_record, slices, unpack_record
from engine_redis.scripts import AWAIT, STORE
from engine_redis.server import Session

_LOOK_AGAIN = 0.9
"""Seconds after which a wait looks for itself: a notification may get lost."""
_REMEMBERED = 5.0
"""Seconds for which the server remembers who waits; each look renews it."""
_IDS = 500


class RedisResults(ResultBackend):
    """Keeps each record as a string that expires.

    A client waits with one subscription, whatever it waits for: the server notes which ids it wants to hear of. There
    are three connections, opened when they are needed: for ``store``, for ``get`` and to be notified.
    """

    options: ClassVar[Mapping[str, type]] = OPTIONS

    def __init__(self, url: str, *, expires: float, options: Mapping[str, Any]) -> None:
        super().__init__(url, expires=expires, options=options)
        self.address = parse(url, options, "results")
        self._storing = Session(self.address)
        self._reading = Session(self.address)
        self._listening = Session(self.address)
        self._channel = ""

    def store(self, records: Sequence[Record]) -> None:
        """See `ResultBackend.store`."""
        expires = max(1, int(self.expires * 1000))
        for part in slices(records, [len(record.body) for record in records]):
            if part:
                arguments: list[Argument] = [expires]
                for position, record in enumerate(part):
                    arguments += (position, record.id, pack_record(record))
                self._storing.run(STORE, arguments)

    def get(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """See `ResultBackend.get`."""
        found: dict[str, Record] = {}
        for start in range(0, len(ids), _IDS):
            part = ids[start : start + _IDS]
            kept = self._reading.call("MGET", *(f"{self.address.prefix}result:{id}" for id in part))
            found |= _records(part, kept)
        return found

    def wait(self, ids: Sequence[str], timeout: float) -> Iterator[Record]:
        """See `ResultBackend.wait`. No connection is held up between two records."""
        deadline = time.monotonic() + timeout
        missing = dict.fromkeys(ids)
        look_at = 0.0
        while missing:
            now = time.monotonic()
            if now >= look_at:
                ended = self._look(list(missing))
                look_at = now + _LOOK_AGAIN
            else:
                try:
                    ended = [record for record in self._told(min(deadline, look_at) - now) if record.id in missing]
                except BrokerUnavailable:
                    # The server closed a connection that idled, or was restarted: the next look tells whether it is up.
                    look_at = 0.0
                    continue
            for record in ended:
                del missing[record.id]
            yield from ended
            if not ended and time.monotonic() >= deadline:
                return

    def forget(self, ids: Sequence[str]) -> None:
        """See `ResultBackend.forget`."""
        for start in range(0, len(ids), _IDS):
            part = ids[start : start + _IDS]
            self._reading.call("UNLINK", *(f"{self.address.prefix}result:{id}" for id in part))

    def check(self) -> Sequence[str]:
        """See `ResultBackend.check`."""
        return look_over(self.address, "results")

    def close(self) -> None:
        """See `ResultBackend.close`."""
        for session in (self._storing, self._reading, self._listening):
            session.close()

    def _look(self, ids: list[str]) -> list[Record]:
        """Returns the final records that are there, and has the server note that this client waits for the others."""
        if not self._listening.connected:
            self._channel = f"{self.address.prefix}ended:{os.urandom(8).hex()}"
            self._listening.call("SUBSCRIBE", self._channel)
        found: list[Record] = []
        for start in range(0, len(ids), _IDS):
            part = ids[start : start + _IDS]
            kept = self._reading.run(AWAIT, [self._channel, _REMEMBERED, *part])
            found += _records(part, kept).values()
        return found

    def _told(self, seconds: float) -> list[Record]:
        """Waits for notifications; returns the records that they were about. Large ones have to be asked for."""
        poll = select.poll()
        poll.register(self._listening.connection(), select.POLLIN)
        if not poll.poll(max(1.0, seconds * 1000)):
            return []
        found: dict[str, Record] = {}
        asked: list[str] = []
        for kind, _, text in self._listening.read_some():
            if kind == b"message":
                size, _, rest = text.partition(b" ")
                id, kept = rest[: int(size)].decode(), rest[int(size) :]
                record = unpack_record(id, kept) if kept else None
                if record is None:
                    asked.append(id)
                else:
                    found[id] = record
        found |= {id: record for id, record in self.get(asked).items() if record.final}
        return list(found.values())


def _records(ids: Iterable[str], kept: Iterable[bytes | None]) -> dict[str, Record]:
    found = {}
    for id, text in zip(ids, kept, strict=True):
        record = unpack_record(id, text) if text is not None else None
        if record is not None:
            found[id] = record
    return found
