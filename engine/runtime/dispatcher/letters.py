"""Runs in the dispatcher: the dead letters that concern this worker.

When a takeover of this worker dead-letters messages, their ends are recorded. And when claims have been compared, or
tasks are learnt, all dead letters are looked through, in the publish lane. Those whose task was unknown when they died
and is known now are put back. Those that a takeover made, and whose end is not on record, are seen to here: the worker
that took over heard no answer, or died before it wrote the end down.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from engine.contract.message import Message
from engine.contract.results import Record
from engine.contract.transport import DeadLetter, Delivery, Transport
from engine.errors import MessageError, TransportError
from engine.runtime.dispatcher import attribution
from engine.runtime.dispatcher.desk import Desk
from engine.runtime.dispatcher.filters import end_item
from engine.runtime.dispatcher.handout import Held
from engine.runtime.dispatcher.lanes import Mailbox
from engine.runtime.dispatcher.link import Link
from engine.runtime.dispatcher.lost_runs import LostRuns
from engine.runtime.dispatcher.registry import Registry

log = logging.getLogger("engine.dispatcher")

UNKNOWN = "unknown task "
"""How the reason of a dead letter begins whose task nobody knew; the name follows."""
TAKEOVER = ("crash limit", "delivery limit")
"""How the reasons begin of those that a takeover made."""
LOOKED_AT = 1000
"""Dead letters that are looked at, the latest first."""
UNHEARD = 60.0
"""Seconds that dead letters are looked back for, beyond the last takeover that was answered: a dispatcher needs some
time to be replaced, and the broker's clock may be another."""
LOOK_AGAIN = 2.0
"""Seconds after which dead letters are looked through again that could not be."""
REMEMBERED = 1000
"""Dead letters of takeovers of which it is remembered that their end was seen to."""
NEVER = float("inf")


class Letters:
    """What this worker does about dead letters. Main lane, but for what says otherwise."""

    def __init__(self, desk: Desk, lost: LostRuns, link: Link, mailbox: Mailbox) -> None:
        self.heard_takeover = time.time()
        """When a takeover was answered last, or this dispatcher began: seconds since the epoch. The fetch lane writes
        it."""
        self._desk = desk
        self._lost_runs = lost
        self._link = link
        self._mailbox = mailbox
        self._look_at = self._look_since = NEVER
        self._seen_to: dict[tuple[str, int], None] = {}
        """Dead letters of takeovers whose end was seen to here: (id, deliveries)."""

    def taken_over(self, letters: Sequence[DeadLetter]) -> None:
        """Records the ends of what a takeover of this worker dead-lettered."""
        for letter in letters:
            self._end(letter)

    def look_through(self) -> None:
        """Has the dead letters looked through, once the tasks are known. Called when something has changed: tasks were
        learnt, or claims compared."""
        registry, link = self._desk.registry, self._link
        since, self._look_at = min(self._look_since, self.heard_takeover - UNHEARD), NEVER
        if registry is None or self._desk.handoff.draining:
            return

        def look() -> None:
            found = look_through(link, registry, since)
            if found is None:
                self._mailbox.post(self._look_later, since)
            elif found:
                self._mailbox.post(self._unrecorded, found)

        self._look_since = NEVER
        self._desk.publisher.do(look)

    def update(self, now: float) -> None:
        """Looks again, where that is due. Once a turn of the main loop."""
        if now >= self._look_at:
            self.look_through()

    def _look_later(self, since: float) -> None:
        self._look_since, self._look_at = since, time.monotonic() + LOOK_AGAIN

    def _unrecorded(self, letters: Sequence[DeadLetter]) -> None:
        """Hears of dead letters that a takeover made, and whose end was not on record when somebody looked."""
        for letter in letters:
            if (letter.id, letter.deliveries) not in self._seen_to:
                self._end(letter, late=True)

    def _end(self, letter: DeadLetter, *, late: bool = False) -> None:
        """Records what a takeover dead-lettered, has its ``link_error`` sent and its hooks run. ``late``: it should
        have been done before; without a record nothing can tell that it was not."""
        try:
            message = Message.decode(letter.body)
        except MessageError:
            return
        registry = self._desk.registry
        info = None if registry is None else registry.find(message.task)
        end = attribution.buried(message, letter, info)
        if late and end.settlement.record is None:
            return
        self._seen_to[letter.id, letter.deliveries] = None
        if len(self._seen_to) > REMEMBERED:
            del self._seen_to[next(iter(self._seen_to))]
        buried = Delivery(message.id, letter.queue, letter.body, b"", deliveries=letter.deliveries)
        held = Held(buried, message, info, time.monotonic(), acked=True)
        log.error("message is a dead letter: %s", letter.reason, extra=held.fields)
        self._desk.settler.submit([end_item(message, end, buried)])
        self._lost_runs.run_hooks(held, end)


def look_through(link: Link, registry: Registry, since: float) -> list[DeadLetter] | None:
    """Replays what this worker's tasks can run; returns, whole, what a takeover made ``since`` then (seconds since the
    epoch) and is not on record. None: it could not look, and should try again."""
    try:
        letters = link.transport.dead(LOOKED_AT)
        _replay_known(link.transport, letters, registry)
        return _unrecorded(link, [letter for letter in letters if letter.died >= since])
    except TransportError as error:
        # In an outage that was told already: each attempt would be a line.
        level = logging.DEBUG if link.broker_outage.lasts else logging.WARNING
        log.log(level, "dead letters are looked through later: %s", error)
        return None


def _replay_known(transport: Transport, letters: Sequence[DeadLetter], registry: Registry) -> None:
    ids = [
        letter.id
        for letter in letters
        if letter.reason.startswith(UNKNOWN) and letter.reason.removeprefix(UNKNOWN) in registry
    ]
    count = transport.replay(ids) if ids else 0
    if count:
        log.info("%d dead letters are replayed: their tasks are known now", count)


def _unrecorded(link: Link, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    ids = [letter.id for letter in letters if letter.reason.startswith(TAKEOVER)]
    if not ids or link.results is None:
        return []
    records = link.results.get(ids)
    whole = [link.transport.dead_letter(id) for id in ids]
    return [letter for letter in whole if letter is not None and not _is_recorded(letter, records.get(letter.id))]


def _is_recorded(letter: DeadLetter, record: Record | None) -> bool:
    try:
        message = Message.decode(letter.body)
    except MessageError:
        return True  # nobody knows whose end it would be
    last = (message.sent, message.retries, letter.deliveries)
    return record is not None and (record.order > last or (record.final and record.order == last))
