"""Runs in the dispatcher: tells the broker what became of the deliveries, and keeps the records. Result before ack.

The main lane submits, the settle lane takes whatever has accumulated and writes it in one round trip each (or one for
both), and the main lane hears what is done. What was refused for anything but the connection is tried one by one, so
that one bad item does not hold up the others; alone it ends as a dead letter and FAILURE.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from engine.app import wire
from engine.app.ends import End
from engine.contract.results import FAILURE, Body, Failure, Record
from engine.contract.transport import Again, Dead, Settlement
from engine.errors import BrokerFull, BrokerUnavailable
from engine.runtime.board import Board
from engine.runtime.dispatcher.journal import Entry, Journal
from engine.runtime.dispatcher.lanes import Backoff, Inbox, Lane, Mailbox
from engine.runtime.dispatcher.link import Link

log = logging.getLogger("engine.dispatcher")


class Facts(NamedTuple):
    """What observers are told of the end of a run that no outcome tells of."""

    queue: str
    retries: int
    deliveries: int
    pid: int | None = None
    """Of the child that ran it; None: it was not begun."""
    runtime: float | None = None
    """Seconds that it ran."""


LARGEST_BATCH = 1000
"""Items that are settled in one call."""


class Item:
    """One thing to settle: the end of a delivery, or a record written on the way."""

    __slots__ = (
        "end",
        "entry",
        "facts",
        "id",
        "outcome",
        "publishes",
        "record",
        "replayed",
        "sequence",
        "settlement",
        "started",
        "task",
        "then",
    )

    def __init__(
        self,
        task: str,
        id: str,
        settlement: Settlement | None,
        *,
        record: Record | None = None,
        entry: Entry | None = None,
        started: bool = False,
        outcome: wire.Outcome | None = None,
        end: End | None = None,
        sequence: int = 0,
        replayed: bool = False,
        then: Callable[[bool], None] | None = None,
        facts: Facts | None = None,
    ) -> None:
        self.task = task
        self.id = id
        self.settlement = settlement
        """None, or one with an empty claim: only its record is stored."""
        self.record = record if settlement is None else settlement.record
        self.entry = entry
        """The packet that is done with when this is settled."""
        self.started = started
        self.outcome = outcome
        """As the child told it, or None."""
        self.end = end
        """As the dispatcher found it, or None."""
        self.sequence = sequence
        """Of the run, if there was one."""
        self.replayed = replayed
        """Found by a dispatcher that replaces another, which may have settled it."""
        self.then = then
        """Called in the main lane when this is settled, with whether the claim was stale."""
        self.facts = facts
        """For observers, of what has no outcome. None: they are told nothing of it."""
        self.publishes = outcome.publishes if outcome is not None else () if end is None else end.publishes
        """What is sent before this is settled."""
        if type(settlement) is Again and not settlement.claim:
            self.publishes = [settlement.envelope, *self.publishes]

    @property
    def claim(self) -> bytes:
        """The claim that this settles; empty: none."""
        return b"" if self.settlement is None else self.settlement.claim

    @property
    def size(self) -> int:
        """Bytes that wait with it."""
        return 0 if self.record is None else len(self.record.body)

    @property
    def fields(self) -> dict[str, str]:
        """What log lines say of the task."""
        return {"task_id": self.id, "task_name": self.task}


class Settler:
    """The main lane's side: what is on its way to the broker, and what follows when it is there."""

    def __init__(self, inbox: Inbox[Item]) -> None:
        self._inbox = inbox
        self.publish: Callable[[Item, Callable[[], None]], None] = lambda item, then: then()
        """Publishes what goes before an item, then makes the call in any lane."""
        self._unsettled: set[Item] = set()
        self.claims_end_with_connection = False
        """Is a claim that is gone none that another worker has taken over? Then the gate sees to its end."""
        self.bytes = 0
        """How much waits: bodies of records."""
        self.on_settled: Callable[[Sequence[Item]], None] | None = None
        """Told of what was settled: for the observers."""
        self.translate: Callable[[Sequence[Item]], None] = lambda items: None
        """Puts other claims in the place of those that items have: for the gate."""
        self.on_ended: Callable[[Sequence[Item], frozenset[bytes]], None] = lambda items, stale: None
        """Told of what was settled, and which claims were stale: for the gate."""

    def __len__(self) -> int:
        return len(self._unsettled)

    def submit(self, items: list[Item]) -> None:
        """Has these settled, in this order; one that publishes something, once that is sent."""
        if not items:
            return
        self.translate(items)
        self._unsettled.update(items)
        self.bytes += sum([item.size for item in items])
        direct = [item for item in items if not item.publishes]
        if direct:
            self._inbox.put(direct)
        if len(direct) < len(items):
            for item in items:
                if item.publishes:
                    self.publish(item, lambda item=item: self._inbox.put([item]))  # type: ignore[misc]

    def pass_on(self, item: Item) -> None:
        """Has an item settled that waited for something else. Any lane."""
        self._inbox.put([item])

    def claims(self) -> set[bytes]:
        """Returns the claims of what is unsettled. Any lane."""
        return {item.claim for item in self._unsettled.copy()}

    def started_claims(self) -> set[bytes]:
        """Returns the claims of unsettled runs that had begun. Any lane."""
        return {item.claim for item in self._unsettled.copy() if item.started}

    def unsettled(self) -> Sequence[Item]:
        """Returns what is unsettled. Main lane."""
        return tuple(self._unsettled)

    def settled(self, items: Sequence[Item], stale: frozenset[bytes]) -> None:
        """Hears from the settle lane. Consumes the packets that are done."""
        journals: set[Journal] = set()
        self._unsettled.difference_update(items)
        self.bytes -= sum([item.size for item in items])
        for item in items:
            if item.entry is not None:
                item.entry.done = True
                journals.add(item.entry.journal)
            if stale and item.claim in stale:
                self._log_stale(item)
            if item.then is not None:
                item.then(bool(stale) and item.claim in stale)
        for journal in journals:
            journal.consume()
        self.on_ended(items, stale)
        if self.on_settled is not None:
            self.on_settled(items)
        if log.isEnabledFor(logging.DEBUG):
            _tell(items)

    def _log_stale(self, item: Item) -> None:
        if item.replayed:
            log.debug("settled before, by the dispatcher that died", extra=item.fields)
        elif self.claims_end_with_connection:
            log.debug("its claim ended with the connection: it is settled when it comes again", extra=item.fields)
        elif item.started:
            log.warning(
                "task ran here but its end was refused: it is another worker's now, or was settled before, by a call "
                "whose answer was lost",
                extra=item.fields,
            )
        else:
            log.info("message is another worker's now, or was settled before", extra=item.fields)


def _tell(items: Sequence[Item]) -> None:
    """Logs the ends that children told of. Here and not in the child, which would wait where nobody reads the log."""
    for item in items:
        if (ended := item.outcome) is not None:
            log.debug("%s after %.3f s", ended.state or "given back", ended.runtime, extra=item.fields)


class SettleLane(Lane):
    """The thread that stores and settles."""

    def __init__(self, board: Board, link: Link, mailbox: Mailbox, settler: Settler, inbox: Inbox[Item]) -> None:
        super().__init__("settle", board)
        self.inbox = inbox
        self.settler = settler
        self.on_records: Callable[[Sequence[Record]], None] | None = None
        """Told of records that were stored, in this lane."""
        self._link = link
        self._mailbox = mailbox
        self._waiting: list[Item] = []
        self._backoff = Backoff()

    def stop(self) -> None:
        """As `Lane.stop`; wakes the lane."""
        super().stop()
        self.inbox.put([])

    def round(self) -> None:
        """Settles what has accumulated."""
        if not self._waiting:
            self.stamp(working=False)
        self._waiting += self.inbox.take(0.0 if self._waiting else 2.0)
        if not self._waiting:
            return
        self.stamp(working=True)
        batch = self._waiting[:LARGEST_BATCH]
        left = self._try(batch)
        self._waiting[: len(batch)] = left
        if left:
            self.pause(self._backoff.next())
        else:
            self._backoff.reset()

    def _try(self, batch: list[Item]) -> list[Item]:
        """Settles a batch; returns what has to be tried again."""
        try:
            stale = self._settle(batch)
        except BrokerUnavailable:
            return batch
        except Exception as error:  # noqa: BLE001 - a plugin refused: whatever it was, one of the items may be to blame
            if len(batch) > 1:
                log.warning("a batch of %d was refused and is settled one by one: %s", len(batch), error)
            return self._one_by_one(batch)
        self._done(batch, stale)
        return []

    def _settle(self, items: Sequence[Item]) -> Sequence[bytes]:
        if self._link.results is not None:
            shared = self._link.shared
            records = [item.record for item in items if item.record is not None and not (shared and item.claim)]
            if records:
                self._store(records)
        settlements = [item.settlement for item in items if item.settlement is not None and item.settlement.claim]
        if not settlements:
            return ()
        consumer = self._link.consumer
        try:
            stale = consumer.settle(settlements)
        except BrokerUnavailable as error:
            self._link.broker_outage.failed(self.lane, error)
            self._link.lost(consumer)
            raise
        self._link.broker_outage.worked(self.lane)
        return stale

    def _store(self, records: Sequence[Record]) -> None:
        assert self._link.results is not None
        try:
            self._link.results.store(records)
        except BrokerUnavailable as error:
            self._link.results_outage.failed(self.lane, error)
            raise
        self._link.results_outage.worked(self.lane)

    def _one_by_one(self, batch: Sequence[Item]) -> list[Item]:
        left: list[Item] = []
        for item in batch:
            self.stamp(working=True)
            try:
                self._done([item], self._settle([item]))
            except (BrokerUnavailable, BrokerFull) as error:
                if isinstance(error, BrokerFull):
                    self._link.broker_outage.failed(self.lane, error)
                left.append(item)
            except Exception as error:  # noqa: BLE001 - a plugin refused this very item: it must not come back for ever
                if not self._bury(item, error):
                    left.append(item)
        return left

    def _bury(self, item: Item, error: Exception) -> bool:
        """Ends what was refused alone: FAILURE and a dead letter. False: the connection is gone, try again. Raises
        ``error`` when that is refused too."""
        log.error(
            "cannot settle a task, which ends as a failure: %s: %s", type(error).__name__, error, extra=item.fields
        )
        reason = f"cannot be settled: {type(error).__name__}: {error}"
        record = None if item.record is None else _failure(item.record, item.task, reason)
        for attempt in (record, None):
            claim = item.claim
            grave = Item(item.task, item.id, Dead(claim, reason, attempt) if claim else None, record=attempt)
            try:
                self._done([item], self._settle([grave]))
            except (BrokerUnavailable, BrokerFull):
                return False
            except Exception as again:  # noqa: BLE001 - the plugin refuses the failure too: next, without its record
                log.error("nor can its failure be settled: %s", again, extra=item.fields)
            else:
                return True
        if item.claim:
            # Nothing at all can be settled: the plugin is to blame, not the item. The next dispatcher finds it in its
            # outcome socket; should that not help either, the engine gives up with everything still claimed.
            raise error
        self._done([item], ())
        return True

    def _done(self, items: Sequence[Item], refused: Sequence[bytes]) -> None:
        stale = frozenset(refused)
        if self.on_records is not None:
            self.on_records([item.record for item in items if item.record is not None and item.claim not in stale])
        self._mailbox.post(self.settler.settled, items, stale)


def _failure(record: Record, task: str, reason: str) -> Record:
    body = Body(
        state=FAILURE,
        task=task,
        date=time.time(),
        failure=Failure(type="TransportError", module="engine.errors", text=reason),
        retries=record.retries,
    )
    return Record(
        record.id, FAILURE, record.sent, record.retries, record.deliveries, msgspec.json.encode(body), final=True
    )
