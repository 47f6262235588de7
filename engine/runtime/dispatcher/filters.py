"""Runs in the dispatcher: sorts what was fetched into what children may run and what ends here, in the fetch lane."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from engine.app import ends
from engine.app.settings import WorkerSection
from engine.app.wire import TaskInfo
from engine.contract.message import Message
from engine.contract.transport import Dead, Delivery, Release
from engine.errors import MessageError, SerializationError
from engine.runtime.dispatcher.handout import Held
from engine.runtime.dispatcher.rates import Rates
from engine.runtime.dispatcher.registry import Registry
from engine.runtime.dispatcher.settle import Ended, Item

log = logging.getLogger("engine.dispatcher")

REVOKED_MOST = 10_000
"""Ids that are remembered as revoked while this worker holds or fetches them; the broker remembers all."""


class Filter:
    """Reads headers. Expired, revoked, unknown, malformed and over-limit messages never reach a child."""

    def __init__(self, worker: WorkerSection) -> None:
        self._rates = Rates()
        self._revoked: dict[str, None] = {}
        self.configure(worker)

    def configure(self, worker: WorkerSection) -> None:
        """Takes the settings: at the start, and after a reload."""
        self._accept = frozenset(worker.accept)
        self._max_message = int(worker.max_message)

    def revoke(self, ids: Iterable[str]) -> list[str]:
        """Remembers ids that were revoked while this worker was up; returns those that wait for their turn. Fetch
        lane."""
        told = dict.fromkeys(ids)
        self._revoked.update(told)
        while len(self._revoked) > REVOKED_MOST:
            del self._revoked[next(iter(self._revoked))]
        return self._rates.forget(told)

    def is_revoked(self, id: str) -> bool:
        """Was it revoked while this worker was up? Any lane."""
        return id in self._revoked

    def sort(self, deliveries: Iterable[Delivery], registry: Registry) -> tuple[list[Held], list[Item]]:
        """Returns what to hand out, in order, and what to settle instead."""
        held: list[Held] = []
        items: list[Item] = []
        came, now = time.monotonic(), time.time()
        for delivery in deliveries:
            try:
                if len(delivery.body) > self._max_message:
                    items.append(self._too_large(delivery))
                    continue
                message = Message.decode(delivery.body)
            except MessageError as error:
                end = ends.malformed(delivery, str(error))
                items.append(_unreadable(delivery, end))
                continue
            info = registry.find(message.task)
            item = self._refusal(delivery, message, info, now)
            if item is None:
                held.append(Held(delivery, message, info, came))
            else:
                items.append(item)
        for item in items:
            _tell(item)
        return held, items

    def _refusal(self, delivery: Delivery, message: Message, info: TaskInfo | None, now: float) -> Item | None:
        if delivery.revoked or message.id in self._revoked:
            return end_item(message, ends.revoked(message, delivery, info), delivery)
        if message.expires is not None and message.expires <= now:
            return end_item(message, ends.expired(message, delivery, info), delivery)
        if info is None:
            return end_item(message, ends.unknown_task(message, delivery), delivery)
        if message.serializer not in self._accept:
            error = SerializationError(
                f"serializer {message.serializer!r} is not accepted here: [worker] accept says which are"
            )
            return end_item(message, ends.refused(message, delivery, error), delivery)
        if info.rate_limit:
            turn = self._rates.turn(info.name, message.id, info.rate_limit, now)
            if turn is not None:
                return Item(message.task, message.id, Release(delivery.claim, at=turn))
        return None

    def _too_large(self, delivery: Delivery) -> Item:
        size = len(delivery.body)
        error = MessageError(f"message of {size} bytes is larger than [worker] max_message = {self._max_message}")
        try:
            message = Message.decode(delivery.body)
        except MessageError:
            return _unreadable(delivery, ends.malformed(delivery, str(error)))
        return end_item(message, ends.refused(message, delivery, error), delivery)


def end_item(message: Message, end: ends.End, delivery: Delivery) -> Item:
    """Returns what settles the end of a message of which no child told, and sends what follows from it."""
    ended = ended_by(message, delivery, end.state, end.reason)
    return Item(message.task, message.id, end.settlement, ended, publishes=end.publishes)


def ended_by(message: Message, delivery: Delivery, state: str = "", reason: str | None = None) -> Ended:
    """Returns what is told of the end of a message that no child had begun."""
    return Ended(delivery.queue, message.retries, delivery.deliveries, state, reason)


def _tell(item: Item) -> None:
    """Logs what becomes of a message that no child will see: it has no other way to be noticed."""
    if type(item.settlement) is Dead:
        log.error(
            "%s: not run, but kept as a dead letter (engine dead show ID)", item.settlement.reason, extra=item.fields
        )
    elif item.ended is not None:
        log.info("%s: not run", item.ended.reason, extra=item.fields)


def _unreadable(delivery: Delivery, end: ends.End) -> Item:
    ended = Ended(delivery.queue, 0, delivery.deliveries, end.state, end.reason)
    return Item("?", delivery.id, end.settlement, ended, publishes=end.publishes)
