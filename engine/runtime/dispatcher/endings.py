"""Runs in the dispatcher: remembers how runs ended here, in case their messages are delivered again. Pure.

A run whose claim was gone when it ended is remembered with the settlement that came too late. And what was acknowledged
in the last seconds is remembered, as a broker that is killed may lose the acknowledgement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from engine.contract.message import Message
from engine.contract.transport import Ack, Again, Dead, Release, Settlement
from engine.runtime.dispatcher.settle import Item

RECENT = 10.0
"""Seconds for which the broker may have lost an acknowledgement that it has confirmed."""
REMEMBERED = 600.0
"""Seconds for which an end is remembered whose delivery is to come again."""


class _End(NamedTuple):
    retries: int
    settlement: Settlement
    until: float


class Endings:
    """By task: how its last run ended. Times are monotonic seconds."""

    def __init__(self, *, told_by_records: bool) -> None:
        """``told_by_records``: is there a result backend? Then what left a final record there need not be remembered
        here."""
        self._told_by_records = told_by_records
        self._ended: dict[str, _End] = {}
        self._recent: deque[tuple[float, list[tuple[str, int]]]] = deque()

    def acknowledged(self, items: Sequence[Item], now: float) -> None:
        """Takes what the broker has settled, and not refused; keeps for a while what ended, and no record tells of."""
        ends = [
            (item.id, retries)
            for item in items
            if not self.is_told(item)
            and isinstance(item.settlement, Ack | Again | Dead)
            and (retries := item.retries) is not None
        ]
        if ends:
            self._recent.append((now, ends))
        while self._recent and self._recent[0][0] < now - RECENT:
            self._recent.popleft()

    def is_told(self, item: Item) -> bool:
        """Does a record tell that this has ended?"""
        return self._told_by_records and item.record is not None and item.record.final

    def connection_lost(self, now: float) -> dict[str, int]:
        """Remembers for longer what was acknowledged in the last seconds; returns it, with the retries. A later end of
        the same task stays: it may be one that is still to be settled."""
        recent = dict(end for _, part in self._recent for end in part)
        self._recent.clear()
        ends = {id: retries for id, retries in recent.items() if not self._ended_since(id, retries)}
        for id, retries in ends.items():
            self._ended[id] = _End(retries, Ack(b""), now + REMEMBERED)
        return ends

    def settled(self, item: Item, now: float, *, is_stale: bool) -> None:
        """Remembers one end; of a stale one, what was to be settled."""
        retries, settlement = item.retries, item.settlement
        if retries is None or settlement is None:
            return
        if is_stale:
            self._ended[item.id] = _End(retries, settlement, now + REMEMBERED)
        elif isinstance(settlement, Ack | Again | Dead):
            self._ended[item.id] = _End(retries, Ack(b""), now + RECENT)

    def settlement_of(self, message: Message) -> Settlement | None:
        """Returns what a delivery of this message is to be settled with, as its run has ended; None: not known. That it
        is to be given back is told once: what was given back comes again, and is to run."""
        end = self._ended.get(message.id)
        if end is None or end.retries < message.retries:
            return None
        if end.retries > message.retries:
            return Ack(b"")
        if isinstance(end.settlement, Release):
            del self._ended[message.id]
        return end.settlement

    def _ended_since(self, id: str, retries: int) -> bool:
        end = self._ended.get(id)
        return end is not None and end.retries > retries

    def prune(self, now: float) -> None:
        """Forgets what is too old."""
        self._ended = {id: end for id, end in self._ended.items() if end.until > now}
