"""Which acknowledgements to send for a set of delivery tags: few. Pure; one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class DeliveryTags:
    """The tags of one channel that the server waits for, in the order of delivery."""

    def __init__(self) -> None:
        self._open: deque[int] = deque()
        self._done: set[int] = set()

    def delivered(self, tag: int) -> None:
        """Adds a tag; each is higher than the one before."""
        self._open.append(tag)

    def settle(self, tags: Iterable[int]) -> list[tuple[int, bool]]:
        """Returns the (tag, multiple) to acknowledge for these. ``multiple``: it and all before it."""
        fresh = set(tags)
        self._done |= fresh
        last, count = 0, 0
        while self._open and self._open[0] in self._done:
            tag = self._open.popleft()
            self._done.discard(tag)
            if tag in fresh:
                last, count = tag, count + 1
                fresh.discard(tag)
        acks = [(last, count > 1)] if count else []
        return acks + [(tag, False) for tag in sorted(fresh)]
