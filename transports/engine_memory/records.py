"""The records of one broker. Every method is called with the broker's lock held."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from engine.contract import Record


class Records:
    """The latest record of each task, until it expires."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Record, float]] = {}
        self._expiring: deque[tuple[float, str]] = deque()

    def store(self, records: Iterable[Record], expires: float) -> None:
        """Writes records in the order given, each unless a newer one is there."""
        until = time.time() + expires
        kept = self._kept
        for record in records:
            old = kept.get(record.id)
            if old is None:
                if record.keep:
                    self._expiring.append((until, record.id))
                    kept[record.id] = (record, until)
            elif old[0].order <= record.order:
                # A record that asks for removal stays as a mark, so that an older run cannot come back.
                self._expiring.append((until, record.id))
                kept[record.id] = (record, until)
        self._purge()

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Returns the records that exist, by id."""
        now = time.time()
        found: dict[str, Record] = {}
        for id in ids:
            kept = self._kept.get(id)
            if kept is not None and kept[1] > now and kept[0].keep:
                found[id] = kept[0]
        return found

    def forget(self, ids: Iterable[str]) -> None:
        """Removes what is kept for the ids."""
        for id in ids:
            self._kept.pop(id, None)

    def _purge(self) -> None:
        now = time.time()
        while self._expiring and self._expiring[0][0] <= now:
            id = self._expiring.popleft()[1]
            kept = self._kept.get(id)
            if kept is not None and kept[1] <= now:
                del self._kept[id]
