"""A worker's end of Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, zip_longest

import msgspec

from engine.contract import (
    Consumer,
    Delivery,
    Reconciled,
    Release,
    Settlement,
    TakenOver,
    Worker,
)
from engine.contract.liveness import DeathWatch
from engine_redis.address import Address
from engine_redis.bell import Bell
from engine_redis.connection import Argument, Reply
from engine_redis.packing import (
    Settling,
    claim_name,
    description,
    parts_of,
    settlement_size,
    slices,
    unpack_id,
    unpack_letter,
)
from engine_redis.scripts import FETCH, LEAVE, RENEW, SETTLE, TAKEOVER
from engine_redis.server import Session

log = logging.getLogger("engine.redis")

_FRESH = 0.05
"""Seconds for which the heartbeats that came with our own are used."""
_LARGEST_FETCH = 32 * 2**20
"""Bytes of bodies that one fetch should bring, judged by the last one."""
_LOADED = 100
"""Messages that are read again at once."""


class RedisConsumer(Consumer):
    """One worker's end. Two connections belong to the fetch lane (one of them sleeps), one to the settle lane."""

    def __init__(self, address: Address, queues: Sequence[str], worker: Worker, expires: float | None) -> None:
        self._worker = worker
        self._description = description(worker)
        self._queues = list(queues)
        self._prefix = address.prefix
        self._expires = None if expires is None else max(1, int(expires * 1000))
        self._session = Session(address, reopens=False)
        self._settling = Session(address)
        self._bell = Bell(self._session, worker.id, queues)
        self._watch = DeathWatch(worker)
        self._orders: list[bytes] = []
        self._seen: bytes | str = ""
        self._looked = False
        self._most = 1000
        self._is_known = False
        self._beats: tuple[float, list[tuple[Worker, int]]] = (0.0, [])

    def fetch(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """See `Consumer.fetch`."""
        deadline = time.monotonic() + timeout
        bell = self._bell
        self._register()
        self._looked = bell.listen()
        if timeout <= 0 and not bell.heard:
            bell.stir()
        while True:
            if (limit > 0 and not bell.quiet) or bell.ordered:
                deliveries = self._turn(limit)
                if deliveries:
                    return deliveries
            left = deadline - time.monotonic()
            if bell.was_woken() or self._orders or left <= 0:
                return ()
            bell.wait(left, wanting=limit > 0)

    def wake(self) -> None:
        """See `Consumer.wake`."""
        self._bell.wake()

    def renew(self, started: Collection[bytes]) -> None:
        """See `Consumer.renew`."""
        self._renew(1, [claim.partition(b" ")[0] for claim in started])
        self._bell.stir()

    def reconcile(self, held: Collection[bytes]) -> Reconciled:
        """See `Consumer.reconcile`."""
        self._register()
        claims = self._claims()
        keep = set(held)
        self._settle(self._session, [Release(claim) for claim in claims if claim not in keep])
        return Reconciled(
            lost=[claim for claim in held if claim not in claims],
            held=self._load({claim: entry for claim, entry in claims.items() if claim in keep}),
            returned=len(claims.keys() - keep),
        )

    def takeover(self, max_crashes: int, max_deliveries: int) -> Sequence[TakenOver]:
        """See `Consumer.takeover`."""
        asked, beats = self._beats
        if time.monotonic() - asked > _FRESH:
            beats = self._renew(0, [])
        last = {worker.id: beat for worker, beat in beats}
        return [self._take_over(id, last[id], max_crashes, max_deliveries) for id in self._watch.dead(beats)]

    def commands(self) -> Sequence[bytes]:
        """See `Consumer.commands`. Those that the last fetch brought; without a fetch since the last call, it looks."""
        if not self._looked:
            self._turn(0)
        self._looked = False
        orders, self._orders = self._orders, []
        return orders

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[bytes]:
        """See `Consumer.settle`."""
        return self._settle(self._settling, settlements)

    def close(self) -> None:
        """See `Consumer.close`."""
        try:
            self._settle(self._session, [Release(claim) for claim in self._claims()])
            self._session.run(LEAVE, [self._worker.id])
        finally:
            self._bell.close()
            self._session.close()
            self._settling.close()

    def _register(self) -> None:
        """Makes the worker known: from then on orders are kept for it, and its death is noticed."""
        if not self._is_known:
            self._renew(0, [])

    def _turn(self, limit: int) -> list[Delivery]:
        """Asks for messages and orders."""
        self._bell.ordered = False
        limit = min(limit, self._most)
        arguments: list[Argument] = [self._worker.id, limit, self._seen, *self._queues]
        reply = self._session.run(FETCH, arguments)
        if reply[0] == 0:
            self._renew(0, [])
            reply = self._session.run(FETCH, arguments)
        _, due, self._seen, orders, first, groups, tallies, revoked = reply
        self._looked = True
        self._orders += orders
        deliveries = _deliveries(first, groups)
        if deliveries:
            size = sum(len(delivery.body) for delivery in deliveries) // len(deliveries)
            self._most = max(1, _LARGEST_FETCH // max(size, 1))
        if tallies or revoked:
            _mark(deliveries, tallies, revoked)
        if limit > len(deliveries):
            self._bell.rest(float(due) if due else float("inf"))
        else:
            self._bell.stir()
        if len(self._queues) > 1 and deliveries:
            deliveries = _in_turns(deliveries, groups)
            self._next_turn(deliveries[-1].queue)
        return deliveries

    def _next_turn(self, last: str) -> None:
        position = self._queues.index(last) + 1
        self._queues = self._queues[position:] + self._queues[:position]

    def _renew(self, beats: int, started: list[bytes]) -> list[tuple[Worker, int]]:
        is_new, known = self._session.run(RENEW, [self._worker.id, self._description, beats, *started])
        if is_new and self._is_known:
            log.warning(
                "%s has forgotten this worker: its data are gone, or another worker took it for dead and has its tasks",
                self._session.where,
            )
        found = [(worker, int(beat)) for _, text, beat in known if (worker := _worker(text)) is not None]
        self._beats = (time.monotonic(), found)
        self._is_known = True
        return found

    def _settle(self, session: Session, settlements: Sequence[Settlement]) -> list[bytes]:
        stale: list[bytes] = []
        for part in slices(settlements, [settlement_size(one) for one in settlements]):
            if part:
                settling = Settling(self._worker.id, part, self._expires)
                stale += [settling.claims[position] for position in session.run(SETTLE, settling.arguments)]
        return stale

    def _claims(self) -> dict[bytes, bytes]:
        """Returns what this worker has claimed: claim -> what the server knows of it."""
        flat = self._session.call("HGETALL", f"{self._prefix}claims:{self._worker.id}")
        return {
            b"%b %b" % (claim.partition(b" ")[0], name): claim
            for name, claim in zip(flat[::2], flat[1::2], strict=True)
        }

    def _load(self, claims: dict[bytes, bytes]) -> list[Delivery]:
        """Reads claimed messages again; one that is settled meanwhile is left out."""
        found: list[Delivery] = []
        for part in _pages(list(claims.items()), _LOADED):
            parsed = [_parse_claim(claim, entry) for claim, entry in part]
            ids = [id for _, id, _ in parsed]
            messages = self._session.call("HMGET", f"{self._prefix}messages", *ids)
            tallies = self._session.call("HMGET", f"{self._prefix}tallies", *ids)
            for (claim, id, line), message, tally in zip(parsed, messages, tallies, strict=True):
                if message is not None:
                    priority, queue = parts_of(line)
                    deliveries, crashes = _tally(tally)
                    body = message.partition(b"\n")[2]
                    found.append(Delivery(unpack_id(id), queue, body, claim, deliveries, crashes, priority))
        return found

    def _take_over(self, id: str, beat: int, max_crashes: int, max_deliveries: int) -> TakenOver:
        released = 0
        dead = []
        more = 1
        while more:
            some, more, *letters = self._session.run(TAKEOVER, [id, beat, max_crashes, max_deliveries])
            released += some
            dead += [unpack_letter(*letters[at : at + 3]) for at in range(0, len(letters), 3)]
        return TakenOver(id, released, dead)


def _deliveries(first: int, groups: Reply) -> list[Delivery]:
    deliveries: list[Delivery] = []
    number = first
    for line, ids, messages in groups:
        priority, queue = parts_of(line)
        for id, message in zip(ids, messages, strict=True):
            claim = b"%d %b" % (number, id if len(id) <= 40 else claim_name(id))
            body = message[message.index(b"\n") + 1 :]
            deliveries.append(Delivery(unpack_id(id), queue, body, claim, 1, 0, priority))
            number += 1
    return deliveries


def _mark(deliveries: list[Delivery], tallies: list[int | bytes], revoked: list[int]) -> None:
    """Puts in what few messages have: earlier deliveries, and revocations."""
    replace = msgspec.structs.replace
    for position, tally in zip(tallies[::2], tallies[1::2], strict=True):
        assert isinstance(position, int)
        assert isinstance(tally, bytes)
        count, crashes = _tally(tally)
        deliveries[position] = replace(deliveries[position], deliveries=count, crashes=crashes)
    for position in revoked:
        deliveries[position] = replace(deliveries[position], revoked=True)


def _in_turns(deliveries: list[Delivery], groups: Reply) -> list[Delivery]:
    """Orders messages of one priority by taking one of each queue in turn; they come queue by queue."""
    lots: dict[int, list[list[Delivery]]] = {}
    start = 0
    for _, ids, _ in groups:
        end = start + len(ids)
        lots.setdefault(deliveries[start].priority, []).append(deliveries[start:end])
        start = end
    ordered: list[Delivery] = []
    for queues in lots.values():
        ordered += [one for one in chain.from_iterable(zip_longest(*queues)) if one is not None]
    return ordered


def _tally(tally: bytes | None) -> tuple[int, int]:
    deliveries, _, crashes = (tally or b"").partition(b" ")
    if not (deliveries.isdigit() and crashes.isdigit()):
        return 1, 0
    return int(deliveries), int(crashes)


def _parse_claim(claim: bytes, entry: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns claim, id and line."""
    head, _, id = entry.partition(b"\n")
    return claim, id or claim.partition(b" ")[2], head.split(b" ", 2)[2]


def _worker(text: bytes | None) -> Worker | None:
    """Reads the description of a worker. None: written by nobody we know, so that nothing is known of its death."""
    try:
        return None if text is None else msgspec.json.decode(text, type=Worker)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _pages(items: Sequence[tuple[bytes, bytes]], size: int) -> Iterator[Sequence[tuple[bytes, bytes]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
