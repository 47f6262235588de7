"""Runs in the dispatcher: how many messages to claim ahead of the children. Pure: no clock of its own, no I/O."""

from __future__ import annotations

HORIZON = 0.1
"""Seconds of work to have in hand."""
_BUCKETS = 10
_BUCKET = HORIZON / _BUCKETS


class Prefetch:
    """Asks for what the children are expected to finish in the next 100 ms: what they finished in the last.

    At least one for each idle child, at most ``most``; ``pinned`` fixes it. Starting from nothing it doubles with every
    round trip to the broker, since what ended in the window adds up. Times are monotonic seconds.
    """

    def __init__(self, most: int, pinned: int | None = None) -> None:
        self.configure(most, pinned)
        self._buckets = [0] * _BUCKETS
        self._last = 0
        self._sum = 0

    def configure(self, most: int, pinned: int | None) -> None:
        """Takes the settings: at the start, and after a reload."""
        self._most = max(1, most)
        self._pinned = pinned

    def ended(self, count: int, now: float) -> None:
        """Says that runs ended."""
        self._turn(now)
        self._buckets[self._last % _BUCKETS] += count
        self._sum += count

    def rate(self, now: float) -> int:
        """Returns how many runs ended in the last 100 ms."""
        self._turn(now)
        return self._sum

    def target(self, idle: int, now: float) -> int:
        """Returns how many messages to have in hand that no child has begun."""
        if self._pinned is not None:
            return self._pinned
        return min(self._most, max(idle, self.rate(now)))

    def _turn(self, now: float) -> None:
        bucket = int(now / _BUCKET)
        passed = bucket - self._last
        if passed <= 0:
            return
        for step in range(min(passed, _BUCKETS)):
            index = (self._last + 1 + step) % _BUCKETS
            self._sum -= self._buckets[index]
            self._buckets[index] = 0
        self._last = bucket
