"""Runs in the dispatcher: rate limits, in the fetch lane. Pure: no clock of its own, no I/O.

A message that is over its task's limit gets the next free turn and goes back to the broker until then, so it blocks
nothing. Turns are kept by id: the message that comes back at its turn must not queue up again. One that comes much
later - the children were busy, or the broker away - takes another turn when others that are late came before it: what
was missed is not made up for in a burst.

Not every message comes back to where it got its turn: it may be revoked or purged, or another worker may fetch it. So a
turn that passes unused is for whoever comes next, and when none is used for a while, the line is taken to be gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

FORGET_AFTER = 60.0
"""Seconds after its turn at which a message that did not come back loses it."""
LATE = 0.25
"""Seconds for which a turn is good, besides the time between two turns. So much may be made up for at once."""
GRACE = LATE / 2
"""Seconds for which a turn is kept for its message, before another may have it."""
GONE_AFTER = 1.0
"""Seconds, or the time of two turns if that is longer, without any start, after which those that wait are taken to be
gone."""
_COUNTED = 32
"""Messages that may come any moment, of which more are not counted: it is too many anyway."""
_TIDY_EVERY = 10.0


class Rates:
    """Turns of rate-limited tasks. Times are epoch seconds, because brokers keep delayed messages by them."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._tidied = 0.0

    def turn(self, task: str, id: str, rate: float, now: float) -> float | None:
        """Returns None when the message may start now, else the time of its turn. ``rate`` is starts per second."""
        self._tidy(now)
        line = self._lines.get(task)
        if line is None:
            line = self._lines[task] = _Line()
        return line.turn(id, 1.0 / rate, now)

    def forget(self, ids: Iterable[str]) -> list[str]:
        """Gives up the turns of messages that are not to come; returns which of them had one."""
        gone = set(ids)
        return [id for line in self._lines.values() for id in line.forget(gone)]

    def _tidy(self, now: float) -> None:
        if now - self._tidied < _TIDY_EVERY:
            return
        self._tidied = now
        self._lines = {task: line for task, line in self._lines.items() if line.tidy(now)}


class _Line:
    """Those of one task that wait."""

    __slots__ = ("_due", "_next", "_order", "_pause", "turns")

    def __init__(self) -> None:
        self._next = 0.0
        """The first turn that is free."""
        self._due = 0.0
        """When the next may start at the earliest, had all started in time."""
        self._pause = 0.0
        self.turns: dict[str, float] = {}
        """By id: the turn that a message was given, and has not come for."""
        self._order: deque[tuple[float, str]] = deque()
        """The turns that were given, soonest first; one counts while ``turns`` has it too."""

    def turn(self, id: str, pause: float, now: float) -> float | None:
        """As `Rates.turn`, ``pause`` being the time between two turns."""
        self._pause = pause
        given = self.turns.pop(id, None)
        if given is not None and given > now:
            self.turns[id] = given
            return given
        if now - self._due > max(2 * pause, GONE_AFTER):
            self._next = min(self._next, now)
            self._order.clear()
        if given is None and max(self._next, self._due) <= now:
            self._next = self._due = now + pause
        elif self._due <= now and (given is not None or self._is_unused(pause, now)):
            self._due = max(self._due, now - pause - LATE) + pause
        else:
            return self._reserve(id, pause, now)
        return None

    def forget(self, gone: set[str]) -> list[str]:
        """Closes the line behind those that are left; returns those that had a turn."""
        found = [id for id in self.turns if id in gone]
        if found:
            self.turns = {id: turn for id, turn in self.turns.items() if id not in gone}
            self._next = max(self.turns.values(), default=self._due - self._pause) + self._pause
        return found

    def tidy(self, now: float) -> bool:
        """Forgets old turns; returns whether anything is left to know."""
        self.turns = {id: turn for id, turn in self.turns.items() if turn > now - FORGET_AFTER}
        self._drop(now - GRACE)
        return bool(self.turns) or max(self._next, self._due) > now

    def _is_unused(self, pause: float, now: float) -> bool:
        """Has a turn passed, besides those of the messages that may come any moment?"""
        return now - self._due >= GRACE + pause * self._expected(now)

    def _expected(self, now: float) -> int:
        self._drop(now - GRACE)
        count = 0
        for turn, id in self._order:
            if turn > now or count == _COUNTED:
                break
            count += self.turns.get(id) == turn
        return count

    def _drop(self, until: float) -> None:
        order = self._order
        while order and (order[0][0] <= until or self.turns.get(order[0][1]) != order[0][0]):
            order.popleft()

    def _reserve(self, id: str, pause: float, now: float) -> float:
        turn = max(now, self._next, self._due)
        self._next = turn + pause
        self.turns[id] = turn
        self._order.append((turn, id))
        return turn
