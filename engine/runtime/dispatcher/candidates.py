"""Runs in the dispatcher: what waits at the gate, found by claim, by id, and by when it is due. Main lane only. Pure.

A call costs no more because more of them wait, but for `all`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection

from engine.runtime.dispatcher.handout import Held

NEVER = float("inf")


class Candidate:
    """A delivery at the gate."""

    __slots__ = ("due", "held", "hold_until", "moved", "stamp")

    def __init__(self, held: Held, hold_until: float) -> None:
        self.held = held
        self.hold_until = hold_until
        """Until then it does not run because nothing is known of it: whoever has it may be about to tell."""
        self.due = NEVER
        """When it is looked at next, in monotonic seconds; NEVER: it is being looked up, or has left."""
        self.stamp = 0.0
        """Of the mark that somebody else has on it."""
        self.moved = 0.0
        """When that stamp was first seen."""


class Candidates:
    """All of them."""

    def __init__(self) -> None:
        self._by_claim: dict[bytes, Candidate] = {}
        self._by_id: dict[str, dict[bytes, Candidate]] = {}
        self._agenda: list[tuple[float, int, Candidate]] = []
        """A heap. An entry whose time is not its candidate's ``due`` any more means nothing."""
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._by_claim)

    def __contains__(self, candidate: Candidate) -> bool:
        return self._by_claim.get(candidate.held.claim) is candidate

    def claims(self) -> Collection[bytes]:
        """Returns the claims of all."""
        return self._by_claim.keys()

    def all(self) -> list[Candidate]:
        """Returns all."""
        return list(self._by_claim.values())

    def of(self, id: str) -> list[Candidate]:
        """Returns those of this task."""
        found = self._by_id.get(id)
        return list(found.values()) if found else []

    def add(self, held: Held, hold_until: float) -> Candidate:
        """Takes a delivery. It is not due before `schedule`."""
        candidate = Candidate(held, hold_until)
        self._by_claim[held.claim] = candidate
        self._by_id.setdefault(held.message.id, {})[held.claim] = candidate
        return candidate

    def remove(self, candidate: Candidate) -> None:
        """Lets one go."""
        held = candidate.held
        candidate.due = NEVER
        del self._by_claim[held.claim]
        same = self._by_id[held.message.id]
        del same[held.claim]
        if not same:
            del self._by_id[held.message.id]

    def schedule(self, candidate: Candidate, due: float) -> None:
        """Says when it is to be looked at, whatever was said before."""
        candidate.due = due
        heapq.heappush(self._agenda, (due, next(self._numbers), candidate))

    def due(self, now: float) -> list[Candidate]:
        """Returns those that are due, in that order; they are not again, until they are scheduled."""
        found: list[Candidate] = []
        agenda = self._agenda
        while agenda and agenda[0][0] <= now:
            due, _, candidate = heapq.heappop(agenda)
            if due == candidate.due:
                candidate.due = NEVER
                found.append(candidate)
        return found

    def next_due(self) -> float:
        """Returns when to ask for `due` again, at the latest."""
        return self._agenda[0][0] if self._agenda else NEVER
