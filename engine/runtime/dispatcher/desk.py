"""Runs in the dispatcher: the main lane's desk, the five places where a message can be that was fetched and not ended.

Main lane, but for what says otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from engine.contract.transport import Release
from engine.runtime.dispatcher.crew import Crew
from engine.runtime.dispatcher.filters import ended_by
from engine.runtime.dispatcher.gate import Gate
from engine.runtime.dispatcher.handout import Handoff, Held
from engine.runtime.dispatcher.publisher import Publisher
from engine.runtime.dispatcher.registry import Registry
from engine.runtime.dispatcher.settle import Item, Settler

log = logging.getLogger("engine.dispatcher")


@dataclass(frozen=True)
class Desk:
    """The places, from the broker to the children and back."""

    gate: Gate
    """Waits here: another run of it may be going on."""
    handoff: Handoff
    """Waits for a child, or was sent to one."""
    crew: Crew
    """Is run by a child."""
    publisher: Publisher
    """Goes back as a new message, or sends others before it is settled."""
    settler: Settler
    """Has ended, and the broker is to be told."""

    @property
    def registry(self) -> Registry | None:
        """The tasks of the newest generation, if they are known. Any lane."""
        return self.handoff.registry

    def started_claims(self) -> Collection[bytes]:
        """Returns the claims of all runs that have begun and are not settled. Any lane."""
        claims = self.settler.started_claims()
        inflight = self.handoff.inflight
        for run in self.crew.running():
            # The board is read while children write it: a claim from our own table is whole.
            held = inflight.get(run.sequence)
            claims.add(run.claim if held is None else held.claim)
        claims.discard(b"")
        return claims

    def give_back(self, held: Iterable[Held]) -> None:
        """Returns unstarted messages to the broker: released uncounted, or published again if acknowledged."""
        items = []
        for one in held:
            message = one.message
            if one.end is not None:
                log.warning("hooks are not run: the worker ends", extra=one.fields)
            elif one.acked:
                self.publisher.send_back(message, one.delivery)
            else:
                items.append(Item(message.task, message.id, Release(one.claim), ended_by(message, one.delivery)))
        self.settler.submit(items)

    def drain(self) -> None:
        """Gives back what is unstarted, and lets idle children leave."""
        self.give_back(self.handoff.drain() + self.gate.take())
