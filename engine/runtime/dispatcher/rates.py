"""Runs in the dispatcher: rate limits, in the fetch lane. Pure: no clock of its own, no I/O.

A message that is over its task's limit gets the next free turn and goes back to the broker until then, so it blocks
nothing. Turns are kept by id: the message that comes back at its turn must not queue up again. One that comes much
later - the children were busy, or the broker away - takes another turn when others that are late came before it: what
was missed is not made up for in a burst.
"""

from __future__ import annotations

FORGET_AFTER = 60.0
"""Seconds after its turn at which a message that did not come back loses it."""
LATE = 0.25
"""Seconds for which a turn is good, besides the time between two turns. So much may be made up for at once."""
_TIDY_EVERY = 10.0


class Rates:
    """Turns of rate-limited tasks. Times are epoch seconds, because brokers keep delayed messages by them."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        """By task: the first turn that is free."""
        self._due: dict[str, float] = {}
        """By task: when the next may start at the earliest, had all started in time."""
        self._turns: dict[tuple[str, str], float] = {}
        self._tidied = 0.0

    def turn(self, task: str, id: str, rate: float, now: float) -> float | None:
        """Returns None when the message may start now, else the time of its turn. ``rate`` is starts per second."""
        self._tidy(now)
        key, pause = (task, id), 1.0 / rate
        turn = self._turns.pop(key, None)
        if turn is None or (turn <= now < self._due.get(task, 0.0)):
            turn = self._reserve(task, pause, now)
        if turn > now:
            self._turns[key] = turn
            return turn
        self._due[task] = max(self._due.get(task, 0.0), now - pause - LATE) + pause
        return None

    def _reserve(self, task: str, pause: float, now: float) -> float:
        turn = max(now, self._next.get(task, 0.0), self._due.get(task, 0.0))
        self._next[task] = turn + pause
        return turn

    def _tidy(self, now: float) -> None:
        if now - self._tidied < _TIDY_EVERY:
            return
        self._tidied = now
        self._turns = {key: turn for key, turn in self._turns.items() if turn > now - FORGET_AFTER}
        for times in (self._next, self._due):
            for task in [task for task, at in times.items() if at <= now]:
                del times[task]
