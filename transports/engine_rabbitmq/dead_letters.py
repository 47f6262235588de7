"""Dead letters: they lie in a queue, so whoever looks takes them all out, and puts back what stays.

While one looks, another sees none. So who looks is alone: a queue that only one connection can have is the lock.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from pika import exceptions

from engine.contract import DeadLetter
from engine_rabbitmq import delay_ladder, names
from engine_rabbitmq.channel import Channel
from engine_rabbitmq.connection import Connection
from engine_rabbitmq.exclusive import exclusive_lock
from engine_rabbitmq.failures import failure
from engine_rabbitmq.messages import Entry

LISTED_BODY = 64 * 1024
_GONE = 404
_MOST_PREFETCH = 65_535
"""That a subscription may have. (Without a number RabbitMQ pushes 2,000 of a quorum queue.)"""
_LOOK = 0.005
_SILENCE = 2.0
"""Seconds without a message after which no further one is expected."""


class StoredLetter:
    """A dead letter as it lies there."""

    __slots__ = ("died", "entry", "reason")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.reason, self.died = _why(entry)

    def shown(self, most: int | None = None) -> DeadLetter:
        """Returns it as an operator sees it, the body cut to ``most`` bytes."""
        entry = self.entry
        return DeadLetter(
            entry.id, entry.queue, self.reason, self.died, entry.deliveries, entry.crashes, entry.body[:most]
        )


class DeadLetters:
    """The dead letters of some queues, or of all, over one connection."""

    def __init__(self, connection: Connection, queues: Iterable[str], *, lost: bool = False) -> None:
        """``lost``: also look at delayed messages that became due when their queue was gone."""
        self._connection = connection
        self._places = [names.place(queue, names.DEAD) for queue in queues] + [names.LOST] * lost

    def latest(self, limit: int) -> list[DeadLetter]:
        """Returns the latest of each id, latest first."""
        found: dict[str, tuple[float, int, DeadLetter]] = {}
        count = itertools.count()

        def keep(letter: StoredLetter) -> bool:
            id, died = letter.entry.id, letter.died
            if id not in found or found[id][0] <= died:
                found[id] = (died, next(count), letter.shown(LISTED_BODY))
            return False

        with exclusive_lock(self._connection, names.LOOK):
            for place in self._places:
                self._visit(place, keep, lambda: None)
        return [letter for _, _, letter in heapq.nlargest(limit, found.values(), key=lambda one: one[:2])]

    def find(self, id: str) -> DeadLetter | None:
        """Returns one, whole."""
        found: list[StoredLetter] = []

        def keep(letter: StoredLetter) -> bool:
            if letter.entry.id == id:
                found.append(letter)
            return False

        with exclusive_lock(self._connection, names.LOOK):
            for place in self._places:
                self._visit(place, keep, lambda: None)
        return max(found, key=lambda letter: letter.died).shown() if found else None

    def take(self, ids: Sequence[str], use: Callable[[list[Entry]], None]) -> int:
        """Removes those of these ids, after ``use`` was called with the latest of each; returns how many ids."""
        wanted = frozenset(ids)
        with exclusive_lock(self._connection, names.LOOK):
            return sum(self._take(place, wanted, use) for place in self._places)

    def _take(self, place: str, wanted: frozenset[str], use: Callable[[list[Entry]], None]) -> int:
        latest: dict[str, StoredLetter] = {}

        def pick(letter: StoredLetter) -> bool:
            id = letter.entry.id
            if id in wanted and (id not in latest or latest[id].died <= letter.died):
                latest[id] = letter
            return id in wanted

        self._visit(place, pick, lambda: use([letter.entry for letter in latest.values()]))
        return len(latest)

    def _wait(self, count: Callable[[], int], wanted: int) -> None:
        """Waits until a count is what is wanted; not for long, as other hands may take some out at the same time. (A
        channel that is closed before the queue has heard of all acknowledgements forgets the rest.)"""
        before, silent_since = -1, time.monotonic()
        while (now := count()) < wanted and time.monotonic() - silent_since < _SILENCE:
            if now != before:
                before, silent_since = now, time.monotonic()
            time.sleep(_LOOK)

    def _visit(self, place: str, pick: Callable[[StoredLetter], bool], use: Callable[[], None]) -> None:
        """Shows each dead letter of a queue; removes the picked ones once ``use`` has returned."""
        picked: list[int] = []
        seen = 0

        def arrived(raw: Any, method: Any, properties: Any, body: bytes) -> None:
            nonlocal seen
            seen += 1
            queue = names.split(place)[0] if place != names.LOST else delay_ladder.target(method.routing_key)
            if pick(StoredLetter(Entry(queue, names.DEAD, method.delivery_tag, False, properties, body))):
                picked.append(method.delivery_tag)

        channel = Channel(self._connection)
        consume = {"queue": place, "on_message_callback": arrived}
        prefetch = ("basic_qos", {"prefetch_count": _MOST_PREFETCH})
        try:
            there = channel.call("queue_declare", queue=place, passive=True).message_count
            subscriptions = 1 + there // _MOST_PREFETCH
            channel.call_all([prefetch, *[("basic_consume", consume)] * subscriptions])
            self._wait(lambda: seen, there)
            if picked:
                use()
            self._connection.post(lambda: _sort(channel.raw, picked, seen))
            channel.call_all([prefetch])
            self._wait(
                lambda: channel.call("queue_declare", queue=place, passive=True).message_count, seen - len(picked)
            )
        except exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _GONE:
                raise failure(error, self._connection.address.place) from error
        finally:
            channel.close()


def _sort(raw: Any, picked: Sequence[int], seen: int) -> None:
    """Removes the picked ones and gives back the others: now, as who looks next must see them."""
    if raw is None:
        return
    if len(picked) == seen:
        raw.basic_ack(0, multiple=True)
        return
    for tag in picked:
        raw.basic_ack(tag)
    raw.basic_nack(0, multiple=True, requeue=True)


def _why(entry: Entry) -> tuple[str, float]:
    """Returns reason and time: our own words, or what the server says of a message that it put there itself."""
    reason, died = entry.headers.get("engine-reason"), entry.headers.get("engine-died")
    if isinstance(reason, str) and isinstance(died, int):
        return reason, died / 1e6
    deaths = entry.headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    when = last.get("time")
    at = when.timestamp() if isinstance(when, datetime) else 0.0
    if last.get("reason") == "expired":
        return "its queue was deleted while it was delayed", at
    if last.get("reason") == "delivery_limit":
        return "delivery limit: its worker was lost too often, says RabbitMQ", at
    return f"put there by RabbitMQ or by other hands: {last.get('reason', 'no reason given')}", at
