"""How many messages the server may push ahead to each subscription. Pure: the clock is given.

It follows what the engine asks for: exactly while that is little (a slow task's worker holds nothing that another could
run), in powers of two above. What was pushed and nobody wants within a second goes back.
"""

from __future__ import annotations

EXACT = 16
MOST = 4096
WINDOW = 1.0
"""Seconds over which what is wanted is compared with what is there."""
IDLE = 0.25
"""Seconds without a fetch that takes anything, after which everything goes back."""


class Credit:
    """The size of the subscriptions of one session."""

    def __init__(self) -> None:
        self.size = 0
        """What each subscription may have pushed and unacknowledged; 0: there are none."""
        self.wanted = False
        """Is a fetch under way that takes something?"""
        self._wanted_at = 0.0
        self._low: int | None = None
        self._taken = 0
        self._since = 0.0

    def size_for(self, limit: int, held: int) -> int:
        """Returns the size that a fetch of ``limit`` needs; ``held``: taken under these subscriptions, unsettled."""
        needed = min(limit + held, MOST)
        if needed <= self.size:
            return self.size
        return needed if needed <= EXACT else 1 << (needed - 1).bit_length()

    def want(self, wanted: bool, now: float) -> None:
        """Says that a fetch begins, or ends, that takes something."""
        self.wanted = wanted
        self._wanted_at = now

    def took(self, count: int, left: int) -> None:
        """Says that a fetch took some, and how many are left."""
        self._taken += count
        self._low = left if self._low is None else min(self._low, left)

    def surplus(self, waiting: int, now: float) -> int:
        """Returns how many of those that wait should go back. Called several times a second."""
        if waiting and not self.wanted and now - self._wanted_at >= IDLE:
            return waiting
        if now - self._since < WINDOW:
            return 0
        low = waiting if self._low is None else min(self._low, waiting)
        surplus = low - max(self._taken, EXACT if self._taken else 0)
        self._since, self._taken, self._low = now, 0, None
        return max(0, surplus)
