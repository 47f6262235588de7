"""What a session is subscribed to, and how much the server may push for it. Pure; not thread-safe.

A subscription is not made larger: another one is added to it. To cancel one that may still push has a price: what is on
its way then, RabbitMQ takes for given back, as one delivery more.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
"""A queue and its level."""


class Subscriptions:
    """By consumer tag: the place, and how many messages may be pushed and unacknowledged."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers = itertools.count()
        self._by_tag: dict[str, tuple[Place, int]] = {}

    def add(self, places: Sequence[Place], size: int) -> list[tuple[str, Place, int]]:
        """Returns the subscriptions, as (tag, place, count), that are missing for each place to push ``size``. They
        count as made."""
        pushed: Counter[Place] = Counter()
        for place, count in self._by_tag.values():
            pushed[place] += count
        added = [
            (f"{self._prefix}.{next(self._numbers)}", place, size - pushed[place])
            for place in places
            if pushed[place] < size
        ]
        self._by_tag.update({tag: (place, count) for tag, place, count in added})
        return added

    def remove(self, tag: str) -> Place | None:
        """Takes out one that the server has ended; returns its place, None for one that is not known."""
        return self._by_tag.pop(tag, (None, 0))[0]

    def remove_others(self, places: Sequence[Place]) -> list[str]:
        """Takes out those of all places but these; returns their tags."""
        tags = [tag for tag, (place, _) in self._by_tag.items() if place not in places]
        for tag in tags:
            del self._by_tag[tag]
        return tags
