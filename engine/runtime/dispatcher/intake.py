"""Runs in the dispatcher: the main lane's side of the fetch lane. It says how much to fetch, takes what was fetched,
and answers which claims are in hand; `engine.runtime.dispatcher.fetch` is the lane that fetches.

Main lane, but for what says otherwise.
"""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Callable, Collection, Sequence

from engine.app import commands
from engine.app.settings import WorkerSection
from engine.contract.transport import Ack, Reconciled, TakenOver
from engine.runtime.dispatcher.desk import Desk
from engine.runtime.dispatcher.handout import Held
from engine.runtime.dispatcher.letters import Letters
from engine.runtime.dispatcher.outcomes import Outcomes
from engine.runtime.dispatcher.prefetch import Prefetch
from engine.runtime.dispatcher.registry import Registry
from engine.runtime.dispatcher.revocations import Revocations
from engine.runtime.dispatcher.settle import Item

log = logging.getLogger("engine.dispatcher")

STALE_EVERY = 0.25
"""Seconds between two looks for what no child has taken."""


class Intake:
    """What comes in from the broker, and what the broker is told of it unasked."""

    def __init__(
        self,
        desk: Desk,
        outcomes: Outcomes,
        revocations: Revocations,
        letters: Letters,
        prefetch: Prefetch,
        worker: WorkerSection,
        on_received: Callable[[Sequence[Held]], None] | None = None,
    ) -> None:
        """``on_received`` is told of what was fetched: for the observers."""
        self.target = 0
        """How many messages to have in hand that no child has begun; 0: fetch nothing. The fetch lane reads it."""
        self.gone = 0
        """How many of all that were ever fetched are in hand and unstarted no more. The fetch lane reads it."""
        self._desk = desk
        self._outcomes = outcomes
        self._revocations = revocations
        self._letters = letters
        self._prefetch = prefetch
        self._on_received = on_received
        self._received = 0
        self._stale_at = 0.0
        self.configure(worker)

    def configure(self, worker: WorkerSection) -> None:
        """Takes the settings: at the start, and after a reload."""
        self.concurrency = worker.concurrency or len(os.sched_getaffinity(0))
        """How many children there are to be."""
        self._is_pinned = worker.prefetch is not None
        self._prefetch.configure(worker.prefetch_max, worker.prefetch)

    # What the fetch lane asks.

    @property
    def registry(self) -> Registry | None:
        """The tasks of the newest generation, if they are known. Any lane."""
        return self._desk.registry

    @property
    def knows_all(self) -> bool:
        """Are all claims in hand known, so that they may be compared with the broker? Any lane."""
        return self._outcomes.knows_all

    def started_claims(self) -> Collection[bytes]:
        """Returns the claims of all runs that have begun and are not settled. Any lane."""
        return self._desk.started_claims()

    def heard_takeover(self) -> None:
        """Notes that a takeover was answered now, whatever it found. The fetch lane."""
        self._letters.heard_takeover = time.time()

    # What the fetch lane tells.

    def fetched(self, held: list[Held], items: list[Item], count: int) -> None:
        """Takes what was fetched: ``held`` is to be handed out, ``items`` are the ends of what is not to run; ``count``
        are all but those that have to wait at the gate."""
        self._received += count
        self._desk.settler.submit(items)
        if self._desk.handoff.draining:
            self._desk.give_back(held)
            return
        self._desk.handoff.add(self._desk.gate.admit(held))
        if self._on_received is not None:
            self._on_received(held)

    def suspend(self) -> None:
        """Stops handing out and reads back: claims may be gone."""
        self._desk.handoff.paused = True
        self._desk.handoff.take_back()
        self._desk.gate.disconnected()

    def tell_claims(self, answer: queue.SimpleQueue[set[bytes]]) -> None:
        """Answers with all claims in hand, having stopped handing out."""
        self.suspend()
        desk, outcomes = self._desk, self._outcomes
        # In this order: what is on the board now is in a socket later, not the other way round.
        claims = {run.claim for run in desk.crew.running()}
        outcomes.read_all()
        claims |= desk.handoff.claims() | desk.settler.claims() | outcomes.unknown_claims() | desk.gate.claims()
        claims.discard(b"")
        answer.put(claims)

    def reconciled(self, result: Reconciled) -> None:
        """Hears how the comparison ended, and hands out again."""
        desk = self._desk
        desk.handoff.paused = False
        lost = set(result.lost) - desk.settler.claims()
        dropped, running = desk.handoff.forget(lost)
        desk.gate.reconciled(result.lost, dropped)
        if lost or result.returned:
            log.info(
                "claims compared with the broker: %d were gone (%d of them run on, their ends will be refused), "
                "%d that nobody held were given back",
                len(lost),
                len(running),
                result.returned,
            )
        self._outcomes.reconciled(result)
        self._letters.look_through()

    def taken_over(self, found: Sequence[TakenOver]) -> None:
        """Hears of claims of dead workers: logs them, and has the ends of what was dead-lettered recorded."""
        for one in found:
            log.warning(
                "worker %s is dead: %d of its messages were released, %d dead-lettered",
                one.worker,
                one.released,
                len(one.dead),
            )
            self._letters.taken_over(one.dead)

    def ordered(self, order: commands.Revoke, waiting: list[str]) -> None:
        """Hears of an order that was broadcast, and which of its messages wait for their turn."""
        self._revocations.ordered(order, waiting, time.monotonic())

    # What the main loop does.

    def update(self, now: float) -> None:
        """Hands out what there is room for, and says how much more to fetch. Once a turn of the main loop."""
        desk, handoff, settler = self._desk, self._desk.handoff, self._desk.settler
        desk.gate.update(now)
        if handoff.draining:
            if handoff.unstarted():
                desk.give_back(handoff.take_all())
        else:
            if now >= self._stale_at:
                self._release_stale(now)
            early = handoff.fill(max(2 * self.concurrency, self._prefetch.rate(now) // 8))
            if early:
                settler.submit([self._early_ack(held) for held in early])
        self._revocations.update(now)
        full = handoff.draining or settler.is_full(desk.gate.waiting)
        self.target = 0 if full else self._prefetch.target(desk.crew.idle(), now)
        self.gone = self._received - handoff.unstarted()

    def drain(self) -> None:
        """Fetches no more, gives back what is unstarted, and lets idle children leave."""
        self.target = 0
        self._desk.drain()

    def _release_stale(self, now: float) -> None:
        self._stale_at = now + STALE_EVERY
        if not self._is_pinned and not self._desk.handoff.paused:
            self._desk.give_back(self._desk.handoff.take_stale(now))

    def _early_ack(self, held: Held) -> Item:
        handoff = self._desk.handoff
        return Item(
            held.message.task,
            held.message.id,
            Ack(held.claim),
            then=lambda stale: handoff.refused(held) if stale else self._acknowledged(held),
        )

    def _acknowledged(self, held: Held) -> None:
        self._desk.handoff.acknowledged(held)
        if held.revoked:
            self._revocations.end([held])
