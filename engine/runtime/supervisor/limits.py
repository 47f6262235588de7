"""Runs in the supervisor: when to look at which child, and what a look means. Pure: no processes, no clock of its own.

All times are monotonic nanoseconds. A `Reading` is what a slot of the board said at one instant. Read from a running
child it decides only whom to ask or stop; the decision to kill is taken from a second reading, of the stopped child.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.runtime import board as words
from engine.runtime.board import FOREVER, REASON_BITS, SOFT, Slot

MEMORY_INTERVAL_NS = 100_000_000
"""How often the size of a child with a memory limit is read."""


@dataclass(frozen=True)
class Reading:
    """What a slot said."""

    slot: int
    run: int
    soft_ns: int = 0
    hard_ns: int = 0
    memory_limit: int = 0
    base_memory: int = 0
    asked: int = 0

    def was_asked(self, reason: int) -> bool:
        """Was this run asked to end for this reason, or a stronger one?"""
        return self.asked >> REASON_BITS == self.run and self.asked & (1 << REASON_BITS) - 1 >= reason


@dataclass
class Due:
    """What one look at the board asks for."""

    soft: list[Reading] = field(default_factory=list)
    """Past their soft limit, and not asked yet."""
    hard: list[Reading] = field(default_factory=list)
    """Past their hard limit, as far as a running child can tell."""
    memory: list[Reading] = field(default_factory=list)
    """To be measured."""
    next_ns: int = FOREVER
    """When the next look is due."""


def read(slot: Slot) -> Reading:
    """Reads one slot."""
    run = slot[words.RUN]
    return Reading(
        slot.index,
        run,
        slot[words.SOFT_NS],
        slot[words.HARD_NS],
        slot[words.MEMORY_LIMIT],
        slot[words.BASE_MEMORY],
        slot[words.ASKED],
    )


def look(readings: Iterable[Reading], now_ns: int) -> Due:
    """Sorts readings into what is due now, and finds when the next look is."""
    due = Due()
    for reading in readings:
        if reading.hard_ns:
            if reading.hard_ns <= now_ns:
                due.hard.append(reading)
            else:
                due.next_ns = min(due.next_ns, reading.hard_ns)
        if reading.soft_ns and not reading.was_asked(SOFT):
            if reading.soft_ns <= now_ns:
                due.soft.append(reading)
            else:
                due.next_ns = min(due.next_ns, reading.soft_ns)
        if reading.memory_limit:
            due.memory.append(reading)
            due.next_ns = min(due.next_ns, now_ns + MEMORY_INTERVAL_NS)
    return due


def still_late(before: Reading, stopped: Reading, now_ns: int) -> bool:
    """Is the stopped child still at the task that was late, and is that still late?"""
    return stopped.run == before.run and 0 < stopped.hard_ns <= now_ns


def still_there(before: Reading, stopped: Reading) -> bool:
    """Is the stopped child still at the task that was too large?"""
    return stopped.run == before.run and stopped.memory_limit > 0
