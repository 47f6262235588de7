"""Runs in the dispatcher: what becomes of tasks that were revoked while this worker had them in hand. Main lane."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.app import commands, ends
from engine.runtime.dispatcher.crew import Run
from engine.runtime.dispatcher.desk import Desk
from engine.runtime.dispatcher.filters import end_item
from engine.runtime.dispatcher.handout import Held
from engine.runtime.dispatcher.settle import Item

TERMINATE_WITHIN = 1.0
"""Seconds during which a task that is to be terminated is looked for: it may be on its way to the board."""


class Revocations:
    """Drops what is unstarted, and has interrupted what runs."""

    def __init__(self, desk: Desk, interrupt: Callable[[Run], None]) -> None:
        """``interrupt`` has the supervisor interrupt a run."""
        self._desk = desk
        self._interrupt = interrupt
        self._wanted: dict[str, float] = {}
        """Tasks that are to be interrupted, and until when they are looked for: monotonic seconds."""

    def ordered(self, order: commands.Revoke, waiting: list[str], now: float) -> None:
        """Carries out a revocation for what is in hand here. What is ``waiting`` for its turn may have been on its way
        back when the broker looked for it: once it is there, the broker looks again."""
        desk = self._desk
        if waiting:
            # Behind what is being given back: that is settled when this is.
            desk.settler.submit([Item("", "", None, then=lambda stale: desk.publisher.revoke(waiting))])
        ids = set(order.ids)
        self.end(desk.handoff.drop_revoked(ids) + desk.gate.take(lambda held: held.message.id in ids))
        if order.terminate:
            self._wanted.update(dict.fromkeys(order.ids, now + TERMINATE_WITHIN))

    def end(self, held: Iterable[Held]) -> None:
        """Ends messages that no child has started."""
        self._desk.settler.submit(
            [end_item(one.message, ends.revoked(one.message, one, one.info), one.delivery) for one in held]
        )

    def update(self, now: float) -> None:
        """Interrupts those that have come up on the board. Once a turn of the main loop."""
        if not self._wanted:
            return
        for run in self._desk.crew.running():
            if self._wanted.pop(run.id, None) is not None:
                self._interrupt(run)
        self._wanted = {id: until for id, until in self._wanted.items() if until > now}
