"""Runs in the dispatcher: tells the broker what became of the deliveries, and keeps the records. Result before ack.

The main lane submits, the settle lane takes whatever has accumulated and writes it in one round trip each (or one for
both), and the main lane hears what is done. What was refused for anything but the connection is tried one by one, so
that one bad item does not hold up the others; alone it ends as a dead letter and FAILURE.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from engine.app import failures, wire
from engine.contract.message import Envelope
from engine.contract.results import FAILURE, Body, Failure, Record
from engine.contract.transport import Again, Dead, Settlement
from engine.errors import BrokerFull, BrokerUnavailable
from engine.runtime.board import Board
from engine.runtime.dispatcher.journal import Entry, Journal
from engine.runtime.dispatcher.lanes import Backoff, Inbox, Lane, Mailbox
from engine.runtime.dispatcher.link import Link
from engine.runtime.dispatcher.publisher import Publisher, repeated

log = logging.getLogger("engine.dispatcher")


LARGEST_BATCH = 1000
"""Items that are settled in one call."""
UNSETTLED_MOST = 10_000
"""Ends that wait for the broker or the result backend, above which nothing more is fetched."""
UNSETTLED_BYTES = 64 * 2**20
"""The same, as bytes of results. At twice as many no more outcomes are read, and children wait for room."""


class Ended(NamedTuple):
    """How a message ended of which no child told: what the gate and the observers want to know of it. Named as the
    fields of `wire.Outcome`, which tells of all others."""

    queue: str
    retries: int
    deliveries: int
    state: str = ""
    """"" when no state is written: it goes back to the broker."""
    reason: str | None = None
    started: bool = False
    """Had a child begun it?"""
    pid: int | None = None
    """Of that child, if it is known."""
    runtime: float | None = None
    """Seconds that it ran."""
    sequence: int = 0
    """Of its packet; 0: it was not handed out, or that is not known."""


class Item:
    """One thing to settle. Three kinds: the end of a run, of which a child told (``ended`` is its outcome); the end of
    a message, of which no child told (`Ended`); a record that ends nothing (``ended`` is None)."""

    __slots__ = ("ended", "entry", "id", "publishes", "record", "replayed", "settlement", "size", "task", "then")

    def __init__(
        self,
        task: str,
        id: str,
        settlement: Settlement | None,
        ended: wire.Outcome | Ended | None = None,
        *,
        publishes: Sequence[Envelope] = (),
        record: Record | None = None,
        entry: Entry | None = None,
        replayed: bool = False,
        then: Callable[[bool], None] | None = None,
    ) -> None:
        self.task = task
        self.id = id
        self.settlement = settlement
        """None, or one with an empty claim: the broker is told nothing, only the record is stored."""
        self.ended = ended
        self.publishes = publishes
        """What is sent before this is settled."""
        if type(settlement) is Again and not settlement.claim:
            self.publishes = [settlement.envelope, *publishes]
        self.record = record if settlement is None else settlement.record
        self.size = 0 if self.record is None else len(self.record.body)
        """Bytes that wait with it."""
        self.entry = entry
        """The packet that is done with when this is settled."""
        self.replayed = replayed
        """Found by a dispatcher that replaces another, which may have settled it."""
        self.then = then
        """Called in the main lane when this is settled, with whether the claim was stale."""

    @property
    def claim(self) -> bytes:
        """The claim that this settles; empty: none."""
        return b"" if self.settlement is None else self.settlement.claim

    @property
    def started(self) -> bool:
        """Does it end a run that had begun?"""
        return self.ended is not None and self.ended.started

    @property
    def retries(self) -> int | None:
        """Which retry of its task it ends; None: no child had it."""
        ended = self.ended
        return ended.retries if ended is not None and (ended.started or type(ended) is wire.Outcome) else None

    @property
    def fields(self) -> dict[str, str]:
        """What log lines say of the task."""
        return {"task_id": self.id, "task_name": self.task}


class Settler:
    """The main lane's side: what is on its way to the broker, and what follows when it is there."""

    def __init__(self, inbox: Inbox[Item], publisher: Publisher, *, claims_end_with_connection: bool) -> None:
        self._inbox = inbox
        self._publisher = publisher
        self._unsettled: set[Item] = set()
        self._claims_end_with_connection = claims_end_with_connection
        """Then a claim that is gone is none that another worker has taken over: the gate sees to its end."""
        self.bytes = 0
        """How much waits: bodies of records."""
        self.swapped: dict[bytes, bytes] = {}
        """By the claim of a run: the one that it has taken over, and that its end is to settle. The gate puts them
        here."""

    def __len__(self) -> int:
        return len(self._unsettled)

    def is_full(self, others: int) -> bool:
        """Does so much wait, with ``others`` that wait elsewhere, that nothing more may be fetched?"""
        return len(self._unsettled) + others > UNSETTLED_MOST or self.bytes > UNSETTLED_BYTES

    @property
    def overfull(self) -> bool:
        """Does so much wait for the broker or the result backend that no outcome may be taken in?"""
        return self.bytes > 2 * UNSETTLED_BYTES

    def submit(self, items: list[Item]) -> None:
        """Has these settled, in this order; one that publishes something, once that is sent."""
        if not items:
            return
        if self.swapped:
            self._swap_claims(items)
        self._unsettled.update(items)
        self.bytes += sum([item.size for item in items])
        direct = [item for item in items if not item.publishes]
        if direct:
            self._inbox.put(direct)
        if len(direct) < len(items):
            for item in items:
                if item.publishes:
                    self._publish_first(item)

    def pass_on(self, item: Item) -> None:
        """Has an item settled that waited for something else. Any lane."""
        self._inbox.put([item])

    def store(self, records: Sequence[Record], then: Callable[[], None]) -> None:
        """Has records stored that end no run, and makes the call when they are."""
        items = [Item("", record.id, None, record=record) for record in records]
        items[-1].then = lambda stale: then()
        self.submit(items)

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
            if (entry := item.entry) is not None:
                entry.done = True
                journals.add(entry.journal)
            if stale and item.claim in stale:
                self._log_stale(item)
            if item.then is not None:
                item.then(bool(stale) and item.claim in stale)
        for journal in journals:
            journal.consume()
        if log.isEnabledFor(logging.DEBUG):
            _tell(items)

    def _swap_claims(self, items: Sequence[Item]) -> None:
        for item in items:
            claim = self.swapped.pop(item.claim, None) if item.claim else None
            if claim is not None and item.settlement is not None:
                item.settlement = msgspec.structs.replace(item.settlement, claim=claim)

    def _publish_first(self, item: Item) -> None:
        """Publishes what goes before an item, and then has it settled."""
        envelopes = repeated(item.publishes) if item.replayed else item.publishes
        batch = None
        if item.entry is not None and item.ended is not None and item.ended.sequence:
            batch = self._publisher.batch_of_slot(item.entry.journal.slot, item.ended.sequence)
        self._publisher.send(envelopes, lambda: self._inbox.put([item]), batch)

    def _log_stale(self, item: Item) -> None:
        if self._claims_end_with_connection:
            log.debug("its claim ended with the connection: it is settled when it comes again", extra=item.fields)
        elif item.replayed:
            log.debug("settled before, by the dispatcher that died", extra=item.fields)
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
        if type(ended := item.ended) is wire.Outcome:
            log.debug("%s after %.3f s", ended.state or "given back", ended.runtime, extra=item.fields)


Hearer: TypeAlias = Callable[[Sequence[Item], frozenset[bytes]], None]
"""Told of what was settled, and of the claims among it that were stale."""


class SettleLane(Lane):
    """The thread that stores and settles."""

    def __init__(
        self,
        board: Board,
        link: Link,
        mailbox: Mailbox,
        inbox: Inbox[Item],
        hearers: Sequence[Hearer],
        on_records: Callable[[Sequence[Record]], None],
    ) -> None:
        """``hearers`` are told in the main lane, in this order, what was settled; ``on_records`` is called in this lane
        with the records that were stored."""
        super().__init__("settle", board)
        self.inbox = inbox
        self._hearers = hearers
        self._on_records = on_records
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
            if len(batch) > 1 and not isinstance(error, BrokerFull):  # that is told as an outage
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
        reason = failures.cut(f"cannot be settled: {type(error).__name__}: {error}", 1000)
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
        self._on_records([item.record for item in items if item.record is not None and item.claim not in stale])
        self._mailbox.post(self._tell_hearers, items, stale)

    def _tell_hearers(self, items: Sequence[Item], stale: frozenset[bytes]) -> None:
        for hear in self._hearers:
            hear(items, stale)


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
