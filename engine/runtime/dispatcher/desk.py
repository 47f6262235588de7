"""Runs in the dispatcher: the main lane's desk, where everything is that was fetched and has not ended.

Main lane, but for the few attributes that the fetch lane reads (`engine.runtime.dispatcher.fetch.Desk`).
"""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from engine.app import commands, ends
from engine.app.settings import Settings
from engine.contract.message import Batch, Envelope, Message
from engine.contract.results import FINAL_STATES, Record
from engine.contract.transport import Ack, DeadLetter, Delivery, Reconciled, Release, TakenOver
from engine.errors import MessageError
from engine.runtime.dispatcher import attribution
from engine.runtime.dispatcher.crew import Crew, Run
from engine.runtime.dispatcher.filters import end_item, facts_of
from engine.runtime.dispatcher.gate import Gate
from engine.runtime.dispatcher.handout import Handoff, Held
from engine.runtime.dispatcher.prefetch import Prefetch
from engine.runtime.dispatcher.publish import PublishLane, repeated
from engine.runtime.dispatcher.registry import Registry
from engine.runtime.dispatcher.settle import Item, Settler

log = logging.getLogger("engine.dispatcher")

UNSETTLED_MOST = 10_000
"""Ends that wait for the broker or the result backend, above which nothing more is fetched."""
UNSETTLED_BYTES = 64 * 2**20
"""The same, as bytes of results. At twice as many no more outcomes are read, and children wait for room."""
TERMINATE_WITHIN = 1.0
"""Seconds during which a task that is to be terminated is looked for: it may be on its way to the board."""
LETTERS_KNOWN = 1000
"""Dead letters of takeovers that are remembered."""
_STALE_EVERY = 0.25


class Desk:
    """What is in hand, and how much more to fetch."""

    def __init__(
        self,
        crew: Crew,
        handoff: Handoff,
        gate: Gate,
        settler: Settler,
        publisher: PublishLane,
        settings: Settings,
        producer: str,
    ) -> None:
        self.crew = crew
        self.handoff = handoff
        self.settler = settler
        self.target = 0
        self.gone = 0
        self.knows_all = False
        self.draining = False
        self.read_sockets: Callable[[], None] = lambda: None
        """Takes in what lies in the outcome sockets."""
        self.unknown_claims: Callable[[], set[bytes]] = set
        """Returns claims that an earlier dispatcher's table knew."""
        self.on_reconciled: Callable[[Reconciled], None] = lambda result: None
        self.on_received: Callable[[Sequence[Held]], None] | None = None
        self.is_revoked: Callable[[str], bool] = lambda task: False
        """Was a task revoked while this worker was up?"""
        self.interrupt: Callable[[Run], None] = lambda run: None
        """Has the supervisor interrupt a run."""
        self.gate = gate
        self._publisher = publisher
        self._producer = producer
        self._published = 0
        self._received = 0
        self._stale_at = 0.0
        self._terminate: dict[str, float] = {}
        self._letters: dict[tuple[str, int], None] = {}
        """Dead letters of takeovers whose end was seen to here: (id, deliveries)."""
        handoff.acknowledge = self.acknowledge
        settler.publish = self.publish_first
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Takes the settings: at the start, and after a reload."""
        worker = settings.worker
        self.max_crashes = worker.max_crashes
        self.concurrency = worker.concurrency or len(os.sched_getaffinity(0))
        self._pinned = worker.prefetch is not None
        self.prefetch = Prefetch(worker.prefetch_max, worker.prefetch)

    # What the fetch lane asks and tells.

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

    def fetched(self, held: list[Held], items: list[Item], count: int) -> None:
        """Takes what was fetched."""
        self._received += count
        self.settler.submit(items)
        if self.draining:
            self.give_back(held)
            return
        self.handoff.add(self.gate.admit(held))
        if self.on_received is not None:
            self.on_received(held)

    def suspend(self) -> None:
        """Stops handing out and reads back: claims may be gone."""
        self.handoff.paused = True
        self.handoff.take_back()
        self.gate.disconnected()

    def tell_claims(self, answer: queue.SimpleQueue[set[bytes]]) -> None:
        """Answers with all claims in hand, having stopped handing out."""
        self.suspend()
        # In this order: what is on the board now is in a socket later, not the other way round.
        claims = {run.claim for run in self.crew.running()}
        self.read_sockets()
        claims |= self.handoff.claims() | self.settler.claims() | self.unknown_claims() | self.gate.claims()
        claims.discard(b"")
        answer.put(claims)

    def reconciled(self, result: Reconciled) -> None:
        """Hears how the comparison ended, and hands out again."""
        self.handoff.paused = False
        unsettled = self.settler.claims()
        lost = set(result.lost) - unsettled
        dropped, running = self.handoff.forget(lost)
        self.gate.reconciled(result.lost, dropped)
        if lost or result.returned:
            log.info(
                "claims compared with the broker: %d were gone (%d of them run on, their ends will be refused), "
                "%d that nobody held were given back",
                len(lost),
                len(running),
                result.returned,
            )
        self.on_reconciled(result)

    def taken_over(self, found: Sequence[TakenOver]) -> None:
        """Hears of claims of dead workers: logs them, and records the ends of what was dead-lettered."""
        for one in found:
            log.warning(
                "worker %s is dead: %d of its messages were released, %d dead-lettered",
                one.worker,
                one.released,
                len(one.dead),
            )
            for letter in one.dead:
                self._end_of(letter)

    def unrecorded(self, letters: Sequence[DeadLetter]) -> None:
        """Hears of dead letters that a takeover made, and whose end was not on record when somebody looked."""
        for letter in letters:
            if (letter.id, letter.deliveries) not in self._letters:
                self._end_of(letter, late=True)

    def _end_of(self, letter: DeadLetter, *, late: bool = False) -> None:
        """Records what a takeover dead-lettered, has its ``link_error`` sent and its hooks run. ``late``: it should
        have been done before; without a record nothing can tell that it was not."""
        try:
            message = Message.decode(letter.body)
        except MessageError:
            return
        info = None if self.registry is None else self.registry.find(message.task)
        end = attribution.buried(message, letter, info)
        if late and end.settlement.record is None:
            return
        self._letters[letter.id, letter.deliveries] = None
        if len(self._letters) > LETTERS_KNOWN:
            del self._letters[next(iter(self._letters))]
        buried = Delivery(message.id, letter.queue, letter.body, b"", deliveries=letter.deliveries)
        held = Held(buried, message, info, time.monotonic(), acked=True)
        log.error("message is a dead letter: %s", letter.reason, extra=held.fields)
        self.settler.submit([end_item(message, end, buried)])
        self.run_hooks(held, end)

    def crashed(self, held: Held, cause: str) -> None:
        """Ends a run that had begun elsewhere, by the death of its worker."""
        end = ends.lost(held.message, held, held.info, cause, self.max_crashes)
        log.error("task lost after it had started: %s; %s", cause, attribution.follows(held, end), extra=held.fields)
        self.settler.submit([end_item(held.message, end, held.delivery)])
        self.run_hooks(held, end)

    def ordered(self, order: commands.Revoke, waiting: list[str]) -> None:
        """Carries out a revocation for what is in hand here. What is ``waiting`` for its turn may have been on its way
        back when the broker looked for it: once it is there, the broker looks again."""
        if waiting:
            self.settler.submit([Item("", "", None, then=lambda stale: self._publisher.revoke(waiting))])
        ids = set(order.ids)
        dropped = self.handoff.drop_revoked(ids) + self.gate.take(lambda held: held.message.id in ids)
        self._end_revoked(dropped)
        if order.terminate:
            until = time.monotonic() + TERMINATE_WITHIN
            self._terminate.update(dict.fromkeys(order.ids, until))

    def run_hooks(self, held: Held, end: ends.End) -> None:
        """Has an idle child run the hooks of a task that ended by the death of its process, if it has any."""
        if end.state not in FINAL_STATES or held.info is None or not held.info.hooks or self.draining:
            return
        hooks = Held(held.delivery, held.message, held.info, time.monotonic(), acked=True)
        hooks.end = (end.state, end.body)
        self.handoff.add_hooks(hooks)

    def record(self, records: Sequence[Record], then: Callable[[], None]) -> None:
        """Has records stored that end no run, and makes the call when they are."""
        items = [Item("", record.id, None, record=record) for record in records]
        items[-1].then = lambda stale: then()
        self.settler.submit(items)

    # What the main loop does.

    @property
    def overfull(self) -> bool:
        """Does so much wait for the broker or the result backend that no outcome may be taken in?"""
        return self.settler.bytes > 2 * UNSETTLED_BYTES

    def update(self, now: float) -> None:
        """Hands out what there is room for, and says how much more to fetch. Once a turn of the main loop."""
        handoff = self.handoff
        self.gate.update(now)
        if self.draining:
            if handoff.unstarted():
                self.give_back(handoff.take_all())
        else:
            if now >= self._stale_at:
                self._release_stale(now)
            handoff.fill(max(2 * self.concurrency, self.prefetch.rate(now) // 8))
        if self._terminate:
            self._terminate_running(now)
        full = (
            self.draining
            or len(self.settler) + self.gate.waiting > UNSETTLED_MOST
            or self.settler.bytes > UNSETTLED_BYTES
        )
        self.target = 0 if full else self.prefetch.target(self.crew.idle(), now)
        self.gone = self._received - handoff.unstarted()

    def drain(self) -> None:
        """Fetches no more, gives back what is unstarted, and lets idle children leave."""
        self.draining = True
        self.target = 0
        self.give_back(self.handoff.take_all() + self.gate.take())
        self.handoff.retire_all()

    def give_back(self, held: Iterable[Held]) -> None:
        """Returns unstarted messages to the broker: released uncounted, or published again if acknowledged."""
        items = []
        for one in held:
            if one.end is not None:
                log.warning("hooks are not run: the worker ends", extra=one.fields)
            elif one.acked:
                self.publish_again(one)
            else:
                facts = facts_of(one.message, one.delivery)
                items.append(Item(one.message.task, one.message.id, Release(one.claim), facts=facts))
        self.settler.submit(items)

    def publish_again(self, held: Held, then: Callable[[], None] = lambda: None) -> None:
        """Publishes an acknowledged message that no child has started; ``then`` is called in the publish lane."""
        delivery, message = held.delivery, held.message
        envelope = Envelope(
            message.id, delivery.body, delivery.queue, delivery.priority, None, message.expires, replayed=True
        )
        self._published += 1
        self._publisher.send([envelope], Batch(self._producer, self._published), then)

    def acknowledge(self, early: list[Held]) -> None:
        """Has messages acknowledged that go to a child then."""
        self.settler.submit([self._early_ack(held) for held in early])

    def publish_first(self, item: Item, then: Callable[[], None]) -> None:
        """Publishes what goes before an item is settled."""
        if item.entry is not None and item.sequence:
            # A slot's runs have growing sequences: as the number they let the broker know a repetition.
            batch = Batch(f"{self._producer.partition('.')[0]}.slot.{item.entry.journal.slot}", item.sequence)
        else:
            self._published += 1
            batch = Batch(self._producer, self._published)
        self._publisher.send(repeated(item.publishes) if item.replayed else item.publishes, batch, then)

    def _early_ack(self, held: Held) -> Item:
        return Item(
            held.message.task,
            held.message.id,
            Ack(held.claim),
            then=lambda stale: self.handoff.refused(held) if stale else self._acknowledged(held),
        )

    def _acknowledged(self, held: Held) -> None:
        self.handoff.acknowledged(held)
        if held.revoked:
            self._end_revoked([held])

    def _end_revoked(self, held: Iterable[Held]) -> None:
        self.settler.submit(
            [end_item(one.message, ends.revoked(one.message, one, one.info), one.delivery) for one in held]
        )

    def _release_stale(self, now: float) -> None:
        self._stale_at = now + _STALE_EVERY
        if not self._pinned and not self.handoff.paused:
            self.give_back(self.handoff.take_stale(now))

    def _terminate_running(self, now: float) -> None:
        for run in self.crew.running():
            if self._terminate.pop(run.id, None) is not None:
                self.interrupt(run)
        self._terminate = {id: until for id, until in self._terminate.items() if until > now}
