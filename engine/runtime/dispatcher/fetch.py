"""Runs in the dispatcher: the fetch lane, which claims messages, keeps the claims alive and takes over dead workers'.

It goes round until the last child is gone: with nothing to fetch it only renews. Time is CLOCK_BOOTTIME here: a host
that slept has a late beat, which other workers may have taken for a death.
"""

from __future__ import annotations

import logging
import queue
import time

from engine.app import commands
from engine.app.settings import WorkerSection
from engine.contract.transport import Consumer
from engine.errors import BrokerUnavailable, TransportError
from engine.runtime.board import Board
from engine.runtime.dispatcher.filters import Filter
from engine.runtime.dispatcher.intake import Intake
from engine.runtime.dispatcher.lanes import Backoff, Lane, Mailbox
from engine.runtime.dispatcher.link import Link

log = logging.getLogger("engine.dispatcher")

MAX_DELIVERIES = 20
"""Deliveries at an unclean takeover above which a message is dead-lettered."""
NO_LIMIT = 2**31 - 1
"""For brokers that count a lost connection as a delivery: there the gate has the last word."""
LONGEST_WAIT = 2.0
"""Seconds that one fetch may wait."""
LATE = 0.5
"""Part of ``dead_after`` that may pass between two beats before claims are compared with the broker."""


class FetchLane(Lane):
    """The thread that fetches and renews."""

    def __init__(
        self,
        board: Board,
        link: Link,
        mailbox: Mailbox,
        filter: Filter,
        intake: Intake,
        worker: WorkerSection,
        *,
        max_deliveries: int,
    ) -> None:
        """``max_deliveries``: as for `Consumer.takeover`."""
        super().__init__("fetch", board)
        self.parked = False
        """Does it wait with nothing to fetch for? Then it must be woken when there is."""
        self._link = link
        self._mailbox = mailbox
        self._filter = filter
        self._intake = intake
        self._max_deliveries = max_deliveries
        self._dead_after = link.worker.dead_after
        self._every = self._dead_after / 10
        self._consumer: Consumer | None = None
        self._fetched = 0
        self._beat_at = self._takeover_at = 0.0
        self._beat: float | None = None
        self._reconcile_due = True
        self._backoff = Backoff()
        self.configure(worker)

    def configure(self, worker: WorkerSection) -> None:
        """Takes the settings: at the start, and after a reload. Any lane."""
        self._max_crashes = worker.max_crashes

    def wake(self) -> None:
        """Makes a waiting fetch return. Any lane."""
        self._link.consumer.wake()

    def limit(self) -> int:
        """Returns how many messages to ask for now. Small amounts wait until they are a quarter of what is wanted.
        Any lane."""
        target = self._intake.target
        if target <= 0 or self._intake.registry is None:
            return 0
        wanted = target - (self._fetched - self._intake.gone)
        return wanted if wanted > 0 and wanted >= target // 4 else 0

    def round(self) -> None:
        """Beats, compares, fetches: what is due."""
        self.stamp(working=True)
        consumer = self._link.consumer
        try:
            if consumer is not self._consumer:
                self._meet(consumer)
            self._keep_alive(consumer)
            if self._reconcile_due and self._intake.knows_all:
                self._reconcile(consumer)
            self._fetch(consumer)
        except BrokerUnavailable as error:
            self._link.lost(consumer)
            self._failed(error)
        except TransportError as error:
            self._failed(error)
        else:
            self._link.broker_outage.worked(self.lane)
            self._backoff.reset()

    def _failed(self, error: TransportError) -> None:
        if self.stopping:
            return
        self._link.broker_outage.failed(self.lane, error)
        self.pause(self._backoff.next())

    def _meet(self, consumer: Consumer) -> None:
        """Takes the first consumer, or one that replaces another whose connection was lost."""
        if self._consumer is not None:
            self._reconcile_due = True
            self._mailbox.post(self._intake.suspend)
            self._beat = None  # no beat was possible meanwhile, and what it would lead to is done already
        self._consumer = consumer
        self._beat_at = self._takeover_at = 0.0

    def _keep_alive(self, consumer: Consumer) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if now >= self._beat_at:
            self._renew(consumer, now)
        if now >= self._takeover_at and self._intake.registry is not None:
            self._take_over(consumer)
            self._takeover_at = now + self._every

    def _renew(self, consumer: Consumer, now: float) -> None:
        consumer.renew(self._intake.started_claims())
        if self._beat is not None and now - self._beat > self._dead_after * LATE:
            log.warning("the heartbeat was %.1f s late: claims are compared with the broker", now - self._beat)
            self._reconcile_due = True
            self._mailbox.post(self._intake.suspend)
        self._beat = now
        self._beat_at = now + self._every

    def _take_over(self, consumer: Consumer) -> None:
        """Looks for dead workers: only once the tasks are known, as what is dead-lettered may have hooks to run."""
        found = [one for one in consumer.takeover(self._max_crashes, self._max_deliveries) if one.released or one.dead]
        self._intake.heard_takeover()
        if found:
            self._mailbox.post(self._intake.taken_over, found)

    def _reconcile(self, consumer: Consumer) -> None:
        answer: queue.SimpleQueue[set[bytes]] = queue.SimpleQueue()
        self._mailbox.post(self._intake.tell_claims, answer)
        claims = self._answer_to(answer)
        if claims is None:
            return
        result = consumer.reconcile(claims)
        self._reconcile_due = False
        self._mailbox.post(self._intake.reconciled, result)

    def _answer_to(self, answer: queue.SimpleQueue[set[bytes]]) -> set[bytes] | None:
        while not self.stopping:
            self.stamp(working=True)
            try:
                return answer.get(timeout=LONGEST_WAIT)
            except queue.Empty:
                continue
        return None

    def _fetch(self, consumer: Consumer) -> None:
        # Set before the limit is taken: whoever makes it grow afterwards sees that this lane must be woken.
        self.parked = True
        registry = self._intake.registry
        limit = 0 if registry is None else self.limit()
        self.parked = limit == 0
        timeout = max(0.0, min(LONGEST_WAIT, self._beat_at - time.clock_gettime(time.CLOCK_BOOTTIME)))
        deliveries = consumer.fetch(limit, timeout)
        self.parked = False
        if deliveries:
            # Read anew: a reload may have brought other tasks while this lane waited.
            registry = self._intake.registry or registry
            assert registry is not None, "with limit 0 nothing is fetched"
            held, items = self._filter.sort(deliveries, registry)
            # Those that wait at the gate first keep no child busy: they must not keep others from being fetched.
            count = sum([not delivery.gate for delivery in deliveries])
            self._fetched += count
            self._mailbox.post(self._intake.fetched, held, items, count)
        for command in consumer.commands():
            try:
                order = commands.decode(command)
            except ValueError:
                log.warning("a command that this version does not know was ignored: %r", command[:100])
                continue
            waiting = self._filter.revoke(order.ids)
            self._mailbox.post(self._intake.ordered, order, waiting)
