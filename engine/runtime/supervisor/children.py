"""Runs in the supervisor: which child is in which slot, and when the next one is spawned. Pure: no processes.

A slot goes EMPTY -> ORDERED (the template was asked) -> STARTING (its pid is known) -> UP (it waited for a task once)
and is EMPTY again when its death has been written into its outcome socket. There are twice as many slots as children
wanted: a reload fills the free ones before the old children leave.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

STEADY = 10.0
"""Seconds after which a child that is up counts as one that works."""


class Stage(Enum):
    """Where a slot is in its life."""

    EMPTY = "empty"
    ORDERED = "ordered"
    STARTING = "starting"
    UP = "up"


@dataclass
class Child:
    """Who is in a slot."""

    slot: int
    stage: Stage = Stage.EMPTY
    spawn: int = 0
    pid: int = 0
    template: int = 0
    """Its template generation."""
    since: float = 0.0
    """Monotonic time of the last change of stage."""
    sentence: Sentence | None = None
    """Why it is to die, once that is decided."""
    told: bool = False
    """Has the log said that it is slow to start?"""


@dataclass(frozen=True)
class Sentence:
    """Why the supervisor kills a child, and at which of its runs that is aimed."""

    why: str
    run: int
    """Its number in the slot."""
    limit: float = 0.0
    used: float = 0.0


@dataclass
class Backoff:
    """When something that failed may be tried again: the first time at once, then later and later, with jitter.

    ``free`` failures in a row cost no waiting. ``limit`` of them without a success in between mean that it will not get
    better (0: never means that).
    """

    first: float = 0.1
    most: float = 30.0
    free: int = 1
    limit: int = 0
    failures: int = 0
    not_before: float = 0.0
    rng: random.Random = field(default_factory=random.Random)

    def succeeded(self) -> None:
        """It works: start anew."""
        self.failures = 0
        self.not_before = 0.0

    def failed(self, now: float) -> None:
        """It failed at ``now``."""
        self.failures += 1
        if self.failures > self.free:
            delay = min(self.most, self.first * 2.0 ** min(self.failures - self.free - 1, 16))
            self.not_before = now + delay * self.rng.uniform(0.5, 1.0)

    @property
    def hopeless(self) -> bool:
        """Has it failed too often in a row?"""
        return 0 < self.limit <= self.failures


class Pool:
    """All slots of an engine, and how many children of which template generation there should be."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.children = [Child(slot) for slot in range(2 * concurrency)]
        self._backoffs: dict[int, Backoff] = {}
        self._early = Backoff(most=1.0, free=4 * concurrency)
        self._spawns = 0

    def backoff(self, template: int) -> Backoff:
        """Returns the backoff of children of a template generation that die before they are ready."""
        return self._backoffs.setdefault(template, Backoff())

    def not_before(self, template: int) -> float:
        """Returns when the next child of this template generation may be spawned: a monotonic time."""
        return max(self.backoff(template).not_before, self._early.not_before)

    def living(self) -> list[Child]:
        """Returns the children that have a pid."""
        return [child for child in self.children if child.pid]

    def of(self, template: int) -> list[Child]:
        """Returns what is in the slots of one template generation, from being ordered on."""
        return [child for child in self.children if child.stage is not Stage.EMPTY and child.template == template]

    def up(self, template: int) -> list[Child]:
        """Returns the children of a template generation that take tasks."""
        return [child for child in self.of(template) if child.stage is Stage.UP]

    def by_pid(self, pid: int) -> Child | None:
        """Returns the child of that pid."""
        return next((child for child in self.children if child.pid == pid), None)

    def order(self, template: int, now: float) -> list[Child]:
        """Fills free slots up to the concurrency; returns those for which a child is to be spawned now."""
        missing = self.concurrency - len(self.of(template))
        if missing <= 0 or now < self.not_before(template):
            return []
        if self.backoff(template).failures > 1:
            missing = 1
        free = [child for child in self.children if child.stage is Stage.EMPTY][:missing]
        for child in free:
            self._spawns += 1
            self.children[child.slot] = Child(child.slot, Stage.ORDERED, self._spawns, 0, template, now)
        return [self.children[child.slot] for child in free]

    def spawned(self, slot: int, spawn: int, pid: int, now: float) -> Child | None:
        """Notes the pid of an ordered child; None if it is not waited for any more."""
        child = self.children[slot]
        if child.stage is not Stage.ORDERED or child.spawn != spawn:
            return None
        child.pid, child.stage, child.since = pid, Stage.STARTING, now
        return child

    def ready(self, child: Child, now: float) -> None:
        """Notes that a child has waited for its first task."""
        child.stage, child.since = Stage.UP, now
        self.backoff(child.template).succeeded()

    def failed(self, child: Child, now: float) -> None:
        """Notes that a child died before it was ready."""
        self.backoff(child.template).failed(now)

    def died_early(self, child: Child, now: float) -> None:
        """Notes that a child died waiting, and had done nothing yet. Many of these in a row, each soon after its start,
        slow the spawning down to one in a second."""
        if child.stage is Stage.UP and now - child.since > STEADY:
            self._early.succeeded()
        else:
            self._early.failed(now)

    def worked(self) -> None:
        """Notes that a child has done a task."""
        self._early.succeeded()

    def empty(self, child: Child) -> None:
        """Empties a slot."""
        self.children[child.slot] = Child(child.slot)

    def overdue(self, now: float, patience: float) -> Iterable[Child]:
        """Returns the children ordered longer than ``patience`` seconds ago whose pid nobody has told."""
        return [child for child in self.children if child.stage is Stage.ORDERED and now - child.since > patience]

    def slow(self, now: float, patience: float) -> list[Child]:
        """Returns, once each, the children that have been starting for longer than ``patience`` seconds."""
        slow = [c for c in self.children if c.stage is Stage.STARTING and now - c.since > patience and not c.told]
        for child in slow:
            child.told = True
        return slow
