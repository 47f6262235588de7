"""Runs in the dispatcher: what an earlier one left when it was killed. Main lane.

Its table of what is in hand is gone, and three places tell of it: the hand-out sockets hold what no child has taken,
the board names what runs, and the outcome sockets hold what ended meanwhile. The deliveries of runs with a claim come
with the comparison of claims (`Reconciled`); until then the inheritance is open, and a death among those runs waits.
"""

from __future__ import annotations

import time

from engine.app import wire
from engine.contract.message import Message
from engine.contract.transport import Delivery, Reconciled
from engine.errors import MessageError
from engine.runtime.dispatcher.crew import Crew, Run
from engine.runtime.dispatcher.handout import Handoff, Held
from engine.runtime.dispatcher.journal import Entry


class Inheritance:
    """Runs that an earlier dispatcher handed out, until they are in this one's table."""

    def __init__(self, crew: Crew, handoff: Handoff) -> None:
        self.open = False
        """Until claims were compared: a run that is not in the table may be one of these."""
        self.deaths: list[tuple[Entry, wire.Death]] = []
        """Those that wait for the comparison."""
        self._crew = crew
        self._handoff = handoff
        self._runs: dict[bytes, Run] = {}
        """By claim."""

    def begin(self) -> None:
        """Opens it, and takes back what lies in the hand-out sockets."""
        self.open = True
        handoff = self._handoff
        handoff.add_first(filter(None, [self._leftover(packet) for packet in handoff.read_leftovers()]))

    def read_board(self) -> None:
        """Takes over the runs on the board that are not in the table: at once if they were acknowledged early."""
        crew, handoff = self._crew, self._handoff
        for run in crew.running():
            if run.sequence in handoff.inflight or crew.ended[run.slot] >= run.sequence:
                continue
            if run.claim:
                self._runs[run.claim] = run
            else:
                handoff.adopt(self.early_run(run), run.sequence)

    def claims(self) -> set[bytes]:
        """Returns the claims whose deliveries are wanted."""
        return {*self._runs, *(death.claim for _, death in self.deaths)}

    def resolve(self, result: Reconciled) -> list[tuple[Entry, wire.Death]]:
        """Puts the runs into the table whose claims are still ours, and closes; returns the deaths to be judged now."""
        self.open = False
        runs, self._runs = self._runs, {}
        deaths, self.deaths = self.deaths, []
        died = {death.claim: death.sequence for _, death in deaths}
        for delivery in result.held if runs or died else ():
            run = runs.get(delivery.claim)
            if run is not None and self._crew.ended[run.slot] < run.sequence:
                self._adopt(delivery, run.sequence)
            elif delivery.claim in died:
                self._adopt(delivery, died[delivery.claim])
        return deaths

    def early_run(self, run: Run) -> Held:
        """Returns what stands for a run of an acknowledged message, of which only the board tells."""
        registry = self._handoff.registry
        tasks = [] if registry is None else registry.tasks
        info = tasks[run.task] if 0 <= run.task < len(tasks) else None
        message = Message(version=1, id=run.id, task=info.name if info else "?", sent=time.time())
        return Held(Delivery(run.id, message.queue, b"", b""), message, info, time.monotonic(), acked=True)

    def _leftover(self, packet: wire.Handout) -> Held | None:
        delivery = Delivery(
            id="",
            queue=packet.queue,
            body=packet.body,
            claim=packet.claim,
            deliveries=packet.deliveries,
            crashes=packet.crashes,
        )
        held = self._held(delivery)
        if held is not None:
            held.end = packet.end
        return held

    def _adopt(self, delivery: Delivery, sequence: int) -> None:
        held = self._held(delivery)
        if held is not None:
            self._handoff.adopt(held, sequence)

    def _held(self, delivery: Delivery) -> Held | None:
        try:
            message = Message.decode(delivery.body)
        except MessageError:
            return None  # a child has it, or had it, and says so itself
        registry = self._handoff.registry
        info = None if registry is None else registry.find(message.task)
        return Held(delivery, message, info, time.monotonic(), acked=not delivery.claim)
