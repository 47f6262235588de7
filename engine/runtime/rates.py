"""Runs in the dispatcher: rate limits, in the fetch lane. Pure: no clock of its own, no I/O.

A message that is over its task's limit gets the next free turn and goes back to the broker until then, so it blocks
nothing. Turns are kept by id: the message that comes back at its turn must not queue up again.
"""

from __future__ import annotations

FORGET_AFTER = 60.0
"""Seconds after its turn at which a message that did not come back loses it."""
_TIDY_EVERY = 10.0


class Rates:
    """Turns of rate-limited tasks. Times are epoch seconds, because brokers keep delayed messages by them."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._turns: dict[tuple[str, str], float] = {}
        self._tidied = 0.0

    def turn(self, task: str, id: str, rate: float, now: float) -> float | None:
        """Returns None when the message may start now, else the time of its turn. ``rate`` is starts per second."""
        self._tidy(now)
        key = (task, id)
        turn = self._turns.get(key)
        if turn is None:
            turn = max(now, self._next.get(task, 0.0))
            self._next[task] = turn + 1.0 / rate
        if turn <= now:
            self._turns.pop(key, None)
            return None
        self._turns[key] = turn
        return turn

    def _tidy(self, now: float) -> None:
        if now - self._tidied < _TIDY_EVERY:
            return
        self._tidied = now
        self._turns = {key: turn for key, turn in self._turns.items() if turn > now - FORGET_AFTER}
        self._next = {task: turn for task, turn in self._next.items() if turn > now}
