"""Runs in the dispatcher: reads the outcome sockets, and sees to what lies in them. Main lane."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence

import msgspec

from engine.app import ends, wire
from engine.contract.message import Message
from engine.contract.transport import Again, Delivery, Reconciled, Release
from engine.errors import MessageError
from engine.runtime.dispatcher.crew import Run
from engine.runtime.dispatcher.desk import Desk
from engine.runtime.dispatcher.inheritance import Inheritance
from engine.runtime.dispatcher.journal import Entry, Journal
from engine.runtime.dispatcher.lost_runs import LostRuns
from engine.runtime.dispatcher.prefetch import Prefetch
from engine.runtime.dispatcher.relay import Children
from engine.runtime.dispatcher.search import Search
from engine.runtime.dispatcher.settle import Item

log = logging.getLogger("engine.dispatcher")


class Outcomes:
    """The journals of all slots, and what becomes of their packets."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        desk: Desk,
        lost: LostRuns,
        children: Children,
        prefetch: Prefetch,
        *,
        knows_all: bool,
        is_revoked: Callable[[str], bool],
        on_registry: Callable[[wire.Registry], None],
    ) -> None:
        """``sockets`` are the dispatcher's ends, by slot. ``is_revoked``: was a task revoked while this worker was up?
        ``on_registry`` takes the tasks that a child told."""
        self.journals = [Journal(slot, sock) for slot, sock in enumerate(sockets)]
        self.knows_all = knows_all
        """Are all claims in hand known? A dispatcher that replaces another has to find them first. Any lane."""
        self._desk = desk
        self._lost_runs = lost
        self._children = children
        self._prefetch = prefetch
        self._is_revoked = is_revoked
        self._on_registry = on_registry
        self._items: list[Item] = []
        self._ended = 0
        self._replaying = False
        self._unread: set[Journal] = set()
        self._stacks: dict[int, tuple[Entry, wire.Stack]] = {}
        """By slot: where the run in hand was at its soft limit."""
        self._searches: list[tuple[Search, Entry | None]] = []
        self._inheritance = Inheritance(desk.crew, desk.handoff)

    # At the start.

    def inherit(self) -> None:
        """Takes over what an earlier dispatcher left: packets that no child has taken, and runs that go on."""
        desk = self._desk
        self._inheritance.begin()
        self._searches.append((Search(desk.crew, desk.handoff.inflight), None))
        # The board before the sockets: what is on it now is in a socket later, not the other way round.
        self._inheritance.read_board()
        self._replaying = True
        for journal in self.journals:
            self._replay(journal)
        self._replaying = False
        self.flush()

    def unknown_claims(self) -> set[bytes]:
        """Returns the claims of runs that are to be adopted, or died before they were."""
        self._inheritance.read_board()
        return self._inheritance.claims()

    def reconciled(self, result: Reconciled) -> None:
        """Adopts runs, now that their deliveries are known, and sees to the deaths among them."""
        for entry, death in self._inheritance.resolve(result):
            self._died_running(entry, death)
        self.flush()

    # At each turn.

    def read(self, journal: Journal) -> None:
        """Sees to what came in one slot's socket, unless too much waits already: then later."""
        if self._desk.settler.overfull:
            self._unread.add(journal)
        else:
            self._take_in(journal)

    def read_unread(self) -> None:
        """Sees to what had to wait, once there is room."""
        if self._unread and not self._desk.settler.overfull:
            unread, self._unread = self._unread, set()
            for journal in unread:
                self.read(journal)

    def read_all(self) -> None:
        """Sees to what came in any slot's socket, however much waits."""
        for journal in self.journals:
            self._take_in(journal)
        self.flush()

    def flush(self) -> None:
        """Hands over what is to be settled, in one go."""
        if self._items:
            items, self._items = self._items, []
            self._desk.settler.submit(items)
        if self._ended:
            count, self._ended = self._ended, 0
            self._prefetch.ended(count, time.monotonic())

    @property
    def searching(self) -> bool:
        """Is a search under way? Then the main loop looks again soon."""
        return bool(self._searches)

    @property
    def unclear(self) -> bool:
        """Is it open which runs an earlier dispatcher began, or what a child had in hand that died waiting?"""
        return self._inheritance.open or self.searching

    def deferred(self) -> Sequence[wire.Death]:
        """Returns the deaths that are settled once the runs are known that an earlier dispatcher began."""
        return [death for _, death in self._inheritance.deaths]

    def search(self) -> None:
        """Concludes the searches that can be."""
        for one in [one for one in self._searches if one[0].decided()]:
            self._searches.remove(one)
            search, entry = one
            lost = search.conclude(self.read_all)
            if entry is None:
                self.knows_all = True
            else:
                self._hand_out_again(lost)
                entry.done = True
                entry.journal.consume()

    # Packets.

    def _take_in(self, journal: Journal) -> None:
        for entry, packet in journal.read():
            self._see(entry, packet)

    def _see(self, entry: Entry, packet: object) -> None:
        if type(packet) is wire.Outcome:
            self._outcome(entry, packet)
        elif type(packet) is wire.Stored:
            self._items.append(Item("", packet.record.id, None, record=packet.record, entry=entry))
        elif type(packet) is wire.Request:
            self._children.ask(entry.journal.slot, entry, packet, again=self._replaying)
        elif type(packet) is wire.Death:
            self._death(entry, packet)
        elif type(packet) is wire.Stack:
            self._stack_of(entry, packet.sequence)  # one that nothing followed
            self._stacks[entry.journal.slot] = (entry, packet)
        else:
            if type(packet) is wire.Registry:
                self._on_registry(packet)
            else:
                log.error("child %d sent what only the dispatcher sends: %.200r", entry.journal.slot, packet)
            entry.done = True
            entry.journal.consume()

    def _replay(self, journal: Journal) -> None:
        """Sees to what an earlier dispatcher left in a socket. A request behind which its task's end lies is answered:
        nobody waits for it any more."""
        packets = journal.read()
        last_end = max(
            (index for index, (_, packet) in enumerate(packets) if type(packet) in (wire.Outcome, wire.Death)),
            default=-1,
        )
        for index, (entry, packet) in enumerate(packets):
            if type(packet) is wire.Request and index < last_end:
                entry.done = True
            else:
                self._see(entry, packet)
        journal.consume()

    def _outcome(self, entry: Entry, outcome: wire.Outcome) -> None:
        desk = self._desk
        sequence = outcome.sequence
        held = desk.handoff.inflight.pop(sequence, None)
        desk.crew.end(entry.journal.slot, sequence)
        self._ended += 1
        if self._stacks:
            self._stack_of(entry, sequence)
        settlement = outcome.settlement
        if held is not None and settlement.claim != held.claim and held.end is None:
            log.error("child %d reported the end of what it did not run", entry.journal.slot, extra=held.fields)
            self._items.append(self._lost_runs.item_of_forgery(held, entry))
            return
        if type(settlement) is Release and not settlement.claim and not outcome.started and held is not None:
            # It was acknowledged, and came back unstarted: somebody else is to have it.
            item = Item(outcome.task, outcome.id, None, entry=entry)
            desk.publisher.send_back(held.message, held.delivery, lambda: desk.settler.pass_on(item))
            return
        if type(settlement) is Again and self._is_revoked(outcome.id):
            outcome = _revoked_instead(outcome, settlement)
            settlement = outcome.settlement
        self._items.append(
            Item(
                outcome.task,
                outcome.id,
                settlement,
                outcome,
                publishes=outcome.publishes,
                entry=entry,
                replayed=self._replaying,
            )
        )

    # Deaths.

    def _death(self, entry: Entry, death: wire.Death) -> None:
        self._children.died(entry.journal.slot)
        desk = self._desk
        if death.sequence == 0:
            desk.handoff.take_back()
            self._searches.append((Search(desk.crew, desk.handoff.inflight), entry))
        elif desk.crew.ended[entry.journal.slot] >= death.sequence:
            self._done(entry)  # its outcome lies before its death, and counts
        elif death.sequence in desk.handoff.inflight or not self._inheritance.open:
            self._died_running(entry, death)
        else:
            self._inheritance.deaths.append((entry, death))

    def _died_running(self, entry: Entry, death: wire.Death) -> None:
        desk = self._desk
        desk.crew.end(entry.journal.slot, death.sequence)
        held = desk.handoff.inflight.pop(death.sequence, None)
        if held is None and not death.claim:
            held = self._inheritance.early_run(Run(death.slot, death.sequence, b"", death.id, death.run, -1))
        if held is not None and held.end is not None:
            log.error("hooks are lost: the child that ran them died: %s", death.cause, extra=held.fields)
            self._done(entry)
            return
        if (stack := self._stack_of(entry, death.sequence)) is not None:
            death = msgspec.structs.replace(death, stack=stack)
        if held is None:
            log.warning("its child died (%s), and its claim is gone", death.cause, extra={"task_id": death.id})
            if desk.gate.active:
                desk.gate.marks.bury(death, lambda: self._done(entry))
            else:
                self._done(entry)  # it is another worker's now, that has counted a crash
            return
        self._items.append(self._lost_runs.item_of_death(held, death, entry, replayed=self._replaying))

    def _stack_of(self, entry: Entry, sequence: int) -> str | None:
        """Returns the stack that was told of a run which has ended; its packet is done with, too."""
        told, packet = self._stacks.pop(entry.journal.slot, (None, None))
        if told is None or packet is None:
            return None
        told.done = True
        return packet.text if packet.sequence == sequence else None

    def _hand_out_again(self, sequences: list[int]) -> None:
        """Hands out again what a child took with it that died waiting: it was never started, and counts nothing."""
        inflight = self._desk.handoff.inflight
        taken = [inflight.pop(sequence) for sequence in sequences]
        for held in taken:
            log.warning("task was taken by a child that died before it started it: handed out again", extra=held.fields)
        self._desk.handoff.add_first(taken)

    def _done(self, entry: Entry) -> None:
        entry.done = True
        entry.journal.consume()


def _revoked_instead(outcome: wire.Outcome, retry: Again) -> wire.Outcome:
    """A task that was revoked while it ran, and is to be retried: it ends now, not when the retry is due."""
    try:
        message = Message.decode(retry.envelope.body)
    except MessageError:
        return outcome  # of a child that was tampered with; whoever fetches it says so
    message.retries = outcome.retries
    end = ends.revoked(message, Delivery(outcome.id, outcome.queue, b"", retry.claim, outcome.deliveries))
    return msgspec.structs.replace(outcome, settlement=end.settlement, state=end.state, reason=end.reason)
