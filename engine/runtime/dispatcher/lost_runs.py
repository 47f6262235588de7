"""Runs in the dispatcher: ends the runs of which no child will tell, as its process or its whole worker died.

What the death means for the task is decided in `engine.runtime.dispatcher.attribution`; here it is carried out: told to
the broker and the log, and to the hooks of the task, which the next idle child runs.
"""

from __future__ import annotations

import logging

from engine.app import ends, wire
from engine.app.settings import WorkerSection
from engine.contract.results import FINAL_STATES
from engine.runtime.dispatcher import attribution
from engine.runtime.dispatcher.filters import end_item
from engine.runtime.dispatcher.handout import Handoff, Held
from engine.runtime.dispatcher.journal import Entry
from engine.runtime.dispatcher.settle import Ended, Item, Settler

log = logging.getLogger("engine.dispatcher")


class LostRuns:
    """Ends them. Main lane."""

    def __init__(self, handoff: Handoff, settler: Settler, worker: str, settings: WorkerSection) -> None:
        """``worker`` is this incarnation's id."""
        self._handoff = handoff
        self._settler = settler
        self._worker = worker
        self.configure(settings)

    def configure(self, settings: WorkerSection) -> None:
        """Takes the settings: at the start, and after a reload."""
        self._max_crashes = settings.max_crashes

    def died(self, held: Held, death: wire.Death) -> None:
        """Ends a run, whose message came again, by the death of its child."""
        self._settler.submit([self.item_of_death(held, death)])

    def worker_died(self, held: Held) -> None:
        """Ends a run that had begun elsewhere, by the death of its worker."""
        end = ends.lost(held.message, held, held.info, "its worker died", self._max_crashes)
        log.error(
            "task lost after it had started: its worker died; %s", attribution.follows(held, end), extra=held.fields
        )
        self._settler.submit([end_item(held.message, end, held.delivery)])
        self.run_hooks(held, end)

    def item_of_death(
        self, held: Held, death: wire.Death, entry: Entry | None = None, *, replayed: bool = False
    ) -> Item:
        """Returns what settles a run by the death of its child; ``entry`` is the packet that told of it."""
        end = attribution.judge(death, held, self._max_crashes, self._worker)
        attribution.tell(death, held, end)
        self.run_hooks(held, end)
        return _item(held, end, entry, death, replayed=replayed)

    def item_of_forgery(self, held: Held, entry: Entry) -> Item:
        """Returns what settles a run whose child reported the end of another. A child may spoil its own task, but not
        end one that it does not run: its own counts as crashed."""
        end = ends.lost(held.message, held, held.info, "a forged outcome", self._max_crashes, worker=self._worker)
        return _item(held, end, entry)

    def run_hooks(self, held: Held, end: ends.End) -> None:
        """Has an idle child run the hooks of a task that ended by the death of its process, if it has any."""
        if end.state in FINAL_STATES and held.info is not None and held.info.hooks and not self._handoff.draining:
            self._handoff.add_hooks(held, (end.state, end.body))


def _item(
    held: Held, end: ends.End, entry: Entry | None, death: wire.Death | None = None, *, replayed: bool = False
) -> Item:
    message, delivery = held.message, held.delivery
    ended = Ended(delivery.queue, message.retries, delivery.deliveries, end.state, end.reason, started=True)
    if death is not None:
        ended = ended._replace(pid=death.pid, runtime=death.runtime, sequence=death.sequence)
    return Item(
        message.task,
        message.id,
        end.settlement,
        ended,
        publishes=end.publishes,
        entry=entry,
        replayed=replayed,
    )
