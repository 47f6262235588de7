"""What a session is subscribed to, and how much the server may push for it. Pure; not thread-safe.

What a place may push grows when it has pushed all of it: of a hundred queues each is given a hundredth of what is
wanted, and the one that has the messages gets more. A subscription is not made larger: another one is added to it. To
cancel one that may still push has a price: what is on its way then RabbitMQ takes for given back, one delivery more.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
"""A queue and its level."""


class Subscriptions:
    """By consumer tag: the place, and how many messages may be pushed and unacknowledged."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers = itertools.count()
        self._by_tag: dict[str, tuple[Place, int]] = {}
        self._sizes: Counter[Place] = Counter()
        self._unsettled: Counter[Place] = Counter()
        self._full: set[Place] = set()

    def __len__(self) -> int:
        return len(self._by_tag)

    @property
    def full(self) -> Collection[Place]:
        """Returns the places that have pushed all that they may."""
        return self._full

    def pushed(self, place: Place) -> None:
        """Says that a message of this place has come."""
        self._unsettled[place] += 1
        if self._unsettled[place] >= self._sizes[place]:
            self._full.add(place)

    def settled(self, place: Place) -> None:
        """Says that one was acknowledged."""
        self._unsettled[place] -= 1
        if self._unsettled[place] < self._sizes[place]:
            self._full.discard(place)

    def add(self, places: Sequence[Place], size: int) -> list[tuple[str, Place, int]]:
        """Returns the subscriptions, as (tag, place, count), that are missing for each place to push ``size``. They
        count as made."""
        added = [
            (f"{self._prefix}.{next(self._numbers)}", place, size - self._sizes[place])
            for place in places
            if self._sizes[place] < size
        ]
        self._by_tag.update({tag: (place, count) for tag, place, count in added})
        for _, place, _ in added:
            self._resize(place, size)
        return added

    def remove(self, tag: str) -> Place | None:
        """Takes out one that the server has ended; returns its place, None for one that is not known."""
        place, count = self._by_tag.pop(tag, (None, 0))
        if place is not None:
            self._resize(place, self._sizes[place] - count)
        return place

    def remove_others(self, places: Sequence[Place]) -> list[str]:
        """Takes out those of all places but these; returns their tags."""
        tags = [tag for tag, (place, _) in self._by_tag.items() if place not in places]
        for tag in tags:
            self.remove(tag)
        if not self._by_tag:
            self._unsettled.clear()  # what is unsettled does not count against the next subscriptions
        return tags

    def _resize(self, place: Place, size: int) -> None:
        self._sizes[place] = size
        if 0 < size <= self._unsettled[place]:
            self._full.add(place)
        else:
            self._full.discard(place)
