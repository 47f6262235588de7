"""``RedisTransport``: Redis as its clients see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from engine.contract import (
    Batch,
    Capabilities,
    Consumer,
    DeadLetter,
    Envelope,
    Found,
    QueueCounts,
    Scheduled,
    Transport,
    Worker,
)
from engine_redis.address import OPTIONS, parse
from engine_redis.bell import orders_channel
from engine_redis.check import look_over
from engine_redis.connection import Reply
from engine_redis.consumer import RedisConsumer
from engine_redis.packing import line_of, pack_envelopes, pack_id, parts_of, slices, unpack_id, unpack_letter
from engine_redis.results import RedisResults
from engine_redis.scripts import (
    COUNTS,
    DEAD,
    DROP,
    FIND,
    ORDER,
    PAUSE,
    PUBLISH,
    PURGE,
    REPLAY,
    REVOKE,
    SCHEDULED,
    Script,
)
from engine_redis.server import Session

_LISTED_BODY = 64 * 1024
_IDS = 500
"""Ids that one script takes: looking for one costs more than adding one."""


class RedisTransport(Transport):
    """The broker of ``redis://`` and its sisters. One thread at a time; a fork gets a connection of its own."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        delays=True,
        prioritises=True,
        publishes_once=True,
        settles_retry_atomically=True,
        keeps_claims=True,
        stores_results=True,
        finds=True,
        lists_scheduled=True,
        revokes=True,
        broadcasts=True,
        durable=True,
        other_hosts=True,
    )
    options: ClassVar[Mapping[str, type]] = OPTIONS

    def __init__(self, url: str, *, options: Mapping[str, Any]) -> None:
        super().__init__(url, options=options)
        self.address = parse(url, options)
        self._session = Session(self.address)
        self._expires: float | None = None

    def publish(self, envelopes: Sequence[Envelope], *, batch: Batch | None = None) -> None:
        """See `Transport.publish`."""
        parts = slices(envelopes, [len(envelope.body) for envelope in envelopes])
        for position, part in enumerate(parts):
            producer, number = "", 0
            if batch is not None:
                # Each part is remembered by itself: a repetition goes on where the first attempt ended.
                producer = f"{batch.producer}/{position}" if position else batch.producer
                number = batch.number
            self._session.run(PUBLISH, [producer, number, *pack_envelopes(part)])

    def consume(self, queues: Sequence[str], worker: Worker) -> Consumer:
        """See `Transport.consume`."""
        for queue in queues:
            line_of(0, queue)
        return RedisConsumer(self.address, queues, worker, self._expires)

    def share_results(self, backend: object) -> bool:
        """See `Transport.share_results`."""
        if not isinstance(backend, RedisResults) or backend.address.place != self.address.place:
            return False
        self._expires = backend.expires
        return True

    def counts(self, queues: Sequence[str] | None = None) -> Mapping[str, QueueCounts]:
        """See `Transport.counts`."""
        found = self._session.run(COUNTS, ["1"] if queues is None else ["0", *queues])
        return {
            queue.decode(errors="replace"): QueueCounts(ready, delayed, claimed, dead, bool(paused))
            for queue, ready, delayed, claimed, dead, paused in sorted(found)
        }

    def revoke(self, ids: Sequence[str], until: float) -> Sequence[Found]:
        """See `Transport.revoke`."""
        found: list[Found] = []
        for start in range(0, len(ids), _IDS):
            packed = map(pack_id, ids[start : start + _IDS])
            for id, *rest in self._session.run(REVOKE, [repr(until), *packed]):
                found.append(_found(unpack_id(id), rest))
        return found

    def find(self, id: str) -> Found | None:
        """See `Transport.find`."""
        reply = self._session.run(FIND, [pack_id(id)])
        return None if reply is None else _found(id, reply)

    def scheduled(self, limit: int = 100, queue: str | None = None) -> Sequence[Scheduled]:
        """See `Transport.scheduled`."""
        found = self._session.run(SCHEDULED, [limit, queue or "", int(queue is not None)])
        return [Scheduled(unpack_id(id), parts_of(line)[1], float(due), body) for due, line, id, body in found]

    def dead(self, limit: int = 100, queue: str | None = None) -> Sequence[DeadLetter]:
        """See `Transport.dead`."""
        found = self._session.run(DEAD, [limit, queue or "", int(queue is not None), _LISTED_BODY])
        return [unpack_letter(*letter) for letter in found]

    def dead_letter(self, id: str) -> DeadLetter | None:
        """See `Transport.dead_letter`."""
        prefix, packed = self.address.prefix, pack_id(id)
        letter = self._session.call("HGET", f"{prefix}letters", packed)
        body = self._session.call("HGET", f"{prefix}bodies", packed)
        return None if letter is None or body is None else unpack_letter(packed, letter, body)

    def replay(self, ids: Sequence[str]) -> int:
        """See `Transport.replay`. A dead letter stays while another message of its id is alive."""
        return self._run_for_each(REPLAY, ids)

    def drop(self, ids: Sequence[str]) -> int:
        """See `Transport.drop`."""
        return self._run_for_each(DROP, ids)

    def purge(self, queue: str) -> int:
        """See `Transport.purge`. A long queue is deleted in steps, so that others get their turn."""
        purged, more = 0, 1
        while more:
            some, more = self._session.run(PURGE, [queue])
            purged += some
        return purged

    def pause(self, queue: str, paused: bool) -> None:
        """See `Transport.pause`."""
        self._session.run(PAUSE, [queue, int(paused)])

    def broadcast(self, command: bytes) -> None:
        """See `Transport.broadcast`."""
        self._session.run(ORDER, [command, orders_channel(self._session)])

    def check(self) -> Sequence[str]:
        """See `Transport.check`: whether the server is one that tasks can be trusted to."""
        return look_over(self.address)

    def close(self) -> None:
        """See `Transport.close`."""
        self._session.close()

    def _run_for_each(self, script: Script, ids: Sequence[str]) -> int:
        """Runs a script that takes ids and counts; returns the sum."""
        parts = (ids[start : start + _IDS] for start in range(0, len(ids), _IDS))
        return sum(self._session.run(script, [*map(pack_id, part)]) for part in parts)


def _found(id: str, reply: Reply) -> Found:
    line, place, due, body = reply
    return Found(id, parts_of(line)[1], place.decode(), float(due) if due else None, body)
