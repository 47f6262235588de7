"""Runs in the dispatcher: who waits for which results. A table in the publish lane, which never waits itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from engine.contract.results import Record

Asker = TypeVar("Asker")

LOOK_EVERY = 0.5
"""Seconds between two looks for all results that are waited for: those of other workers are seen in no other way."""
GATHER = 0.01
"""Seconds for which the answer to a wait for several results is held back once some are there, for more to come."""


class Waiting(Generic[Asker]):
    """One wait that has not been answered."""

    __slots__ = ("answer_at", "asker", "found", "ids")

    def __init__(self, asker: Asker, ids: Iterable[str], answer_at: float) -> None:
        self.asker = asker
        self.ids = set(ids)
        self.answer_at = answer_at
        """Monotonic seconds: its timeout, or sooner when something was found."""
        self.found: list[Record] = []


class Waits(Generic[Asker]):
    """All of them. Publish lane, but for `wanted`."""

    def __init__(
        self,
        get: Callable[[Sequence[str]], Mapping[str, Record]],
        answer: Callable[[Asker, list[Record]], None],
        is_gone: Callable[[Asker], bool],
    ) -> None:
        self._get = get
        self._answer = answer
        self._is_gone = is_gone
        self._by_id: dict[str, list[Waiting[Asker]]] = {}
        self._open: set[Waiting[Asker]] = set()
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def wanted(self, records: Iterable[Record]) -> list[str]:
        """Returns the ids of those final records that somebody waits for. Any lane."""
        by_id = self._by_id
        return [record.id for record in records if record.final and record.id in by_id] if by_id else []

    def add(self, asker: Asker, ids: Sequence[str], timeout: float) -> None:
        """Takes a wait of ``timeout`` s: it is answered when all of the results are there, shortly after the first, or
        when the time is over."""
        waiting = Waiting(asker, ids, time.monotonic() + timeout)
        self._open.add(waiting)
        for id in waiting.ids:
            self._by_id.setdefault(id, []).append(waiting)
        self.look(list(waiting.ids))
        self.tick()

    def look(self, ids: Sequence[str]) -> None:
        """Looks for these results."""
        wanted = [id for id in ids if id in self._by_id]
        if not wanted:
            return
        for id, record in self._get(wanted).items():
            if record.final:
                for waiting in self._by_id.pop(id, ()):
                    self._found(waiting, record)

    def tick(self) -> float:
        """Answers what is due, and looks for everything now and then; returns how many seconds may pass until the next
        call."""
        now = time.monotonic()
        if self._by_id and now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self.look(list(self._by_id))
        for waiting in [one for one in self._open if not one.ids or one.answer_at <= now or self._is_gone(one.asker)]:
            self._close(waiting)
        soonest = min((waiting.answer_at for waiting in self._open), default=now + LOOK_EVERY)
        return max(0.0, min(soonest, self._look_at) - now) if self._open else LOOK_EVERY

    def _found(self, waiting: Waiting[Asker], record: Record) -> None:
        waiting.ids.discard(record.id)
        waiting.found.append(record)
        if len(waiting.found) == 1:
            waiting.answer_at = min(waiting.answer_at, time.monotonic() + GATHER)

    def _close(self, waiting: Waiting[Asker]) -> None:
        self._open.discard(waiting)
        for id in waiting.ids:
            others = [one for one in self._by_id.get(id, ()) if one is not waiting]
            if others:
                self._by_id[id] = others
            else:
                self._by_id.pop(id, None)
        if not self._is_gone(waiting.asker):
            self._answer(waiting.asker, waiting.found)
