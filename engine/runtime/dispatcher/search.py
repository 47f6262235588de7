"""Runs in the dispatcher: finds the packet that a child took with it when it died waiting.

A child that is killed after it has received a packet, and before it has written that on the board, has had a task of
which nothing tells. The search looks in this order, so that a packet on its way from one place to the next cannot slip
through: the hand-off socket (read back), the children that wait but are awake (they may be about to write the board),
the board, the outcome sockets. What is found nowhere was never started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.runtime.dispatcher.crew import Crew
from engine.runtime.dispatcher.handout import Held


class Search:
    """One search, begun when the hand-off socket has been read back. Main lane."""

    def __init__(self, crew: Crew, inflight: Mapping[int, Held]) -> None:
        self._crew = crew
        self._inflight = inflight
        self._candidates = set(inflight)
        """What was sent before, and has not been read back."""
        self._undecided = crew.awake()

    def decided(self) -> bool:
        """Is every child that was awake asleep by now, or on the board, or gone?"""
        self._undecided = {slot: pid for slot, pid in self._undecided.items() if self._crew.still_undecided(slot, pid)}
        return not self._undecided

    def conclude(self, read_sockets: Callable[[], None]) -> list[int]:
        """Returns the sequences that are nowhere. Call when `decided`; ``read_sockets`` takes all outcomes in."""
        begun = {run.sequence for run in self._crew.running()}
        read_sockets()
        return sorted(sequence for sequence in self._candidates - begun if sequence in self._inflight)
