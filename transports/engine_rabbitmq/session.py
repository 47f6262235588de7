"""The consuming connection of one worker: what the server pushed, and what the lanes hold of it.

- A claim is (this session, delivery tag). It dies with the session: the server gives the message to somebody else, at
  once, whether it runs here or not. So what comes again passes a gate (`Delivery.gate`).
- The server pushes; a fetch takes from what was pushed. What nobody wants goes back, uncounted: a copy to the front of
  its queue, confirmed, then the acknowledgement. (RabbitMQ's own give-back counts as a delivery.)
- The connection never publishes: see `engine_rabbitmq.publisher`.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec

from engine.contract import Delivery
from engine.errors import BrokerFull, BrokerUnavailable
from engine_rabbitmq import names
from engine_rabbitmq.acks import DeliveryTags
from engine_rabbitmq.catalogue import Catalogue, Order, QueueFact
from engine_rabbitmq.channel import Call, Channel, cancel
from engine_rabbitmq.confirms import Publication
from engine_rabbitmq.connection import Connection
from engine_rabbitmq.messages import Entry, copy_of
from engine_rabbitmq.prefetch import PrefetchBuffer, PrefetchSize
from engine_rabbitmq.publisher import Publisher
from engine_rabbitmq.streams import StreamReader
from engine_rabbitmq.subscriptions import Place, Subscriptions
from engine_rabbitmq.topology import Topology, with_companions

log = logging.getLogger("engine.rabbitmq")
_LOOK = 0.125
"""Seconds between two looks for what should go back."""
_order = msgspec.json.Decoder(Order)


class Session:
    """One consuming connection. `fetch` belongs to the fetch lane, `acknowledge` to any."""

    def __init__(
        self, connection: Connection, topology: Topology, publisher: Publisher, queues: Sequence[str], since: float
    ) -> None:
        """``since``: when the worker came (epoch). What was ordered after that is heard, perhaps for a second time."""
        self.connection = connection
        self.held: dict[bytes, Entry] = {}
        """What the lanes hold, by claim. Change it under `ready`."""
        self.ready = threading.Condition()
        self.most_deliveries = 20
        """Deliveries above which a message is not handed out any more."""
        self._poison: list[Entry] = []
        self._topology = topology
        self._publisher = publisher
        self._catalogue: Catalogue = publisher.catalogue
        self._queues = tuple(queues)
        self._epoch = os.urandom(5).hex()
        self._channel = Channel(connection, self._opened)
        self._channel.on_closed = self._lost
        self._channel.refusals_are_losses = True  # of a request of one lane, which is no other lane's fault
        self._buffer = PrefetchBuffer()
        self._tags = DeliveryTags()
        self._prefetch = PrefetchSize()
        self._period = 0
        self._out = 0
        self._subscriptions = Subscriptions(self._epoch)
        self._stale = False
        """Do the subscriptions no longer fit what is known of the queues?"""
        self._version = 0
        self._commands: list[bytes] = []
        self._since = since
        self._hears = False
        """Is what comes new?"""
        self._woken = False
        self._waiting = False
        self._ringing = False
        self._subscribing = False
        self._keeping = False
        self._claims = itertools.count(1)

    # The fetch lane's side.

    def open(self) -> None:
        """Connects, learns what the streams hold, and declares the queues. Raises BrokerUnavailable."""
        self.connection.on_end = lambda error: self._ring()
        self.connection.open()
        try:
            self._topology.streams()
            self._readers = [
                StreamReader(self.connection, names.QUEUES, self._on_fact),
                StreamReader(self.connection, names.REVOKED, self._on_order),
            ]
            for reader in self._readers:
                reader.read()
            self._hears = True
            self._declare()
            self._channel.call_all([_qos(1)])
        except BaseException:
            self.connection.close()
            raise

    def use(self, queues: Sequence[str]) -> None:
        """Fetches from these queues from now on. What is held stays so."""
        with self.ready:
            if self._queues == tuple(queues):
                return
            self._queues = tuple(queues)
            self._stale = True
        self._declare()

    def fetch(self, limit: int, timeout: float) -> list[Delivery]:
        """As `Consumer.fetch`."""
        deadline = time.monotonic() + timeout
        self._prefetch.want(limit > 0, time.monotonic())
        try:
            while True:
                if limit > 0 and self._subscribe(limit):
                    deadline = max(deadline, time.monotonic())
                taken = self._take(limit, deadline)
                if taken is not None:
                    return taken
        finally:
            if limit > 0:
                self._prefetch.want(False, time.monotonic())

    def wake(self) -> None:
        """Makes a waiting fetch return. Any thread."""
        with self.ready:
            self._woken = True
            self.ready.notify_all()

    def take_commands(self) -> list[bytes]:
        """Returns the commands that came since the last call."""
        if not self._commands:
            return []
        with self.ready:
            taken, self._commands = self._commands, []
        return taken

    def take_poison(self) -> list[Entry]:
        """Returns what was delivered too often, since the last call. It is held."""
        with self.ready:
            taken, self._poison = self._poison, []
        return taken

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Returns how many messages of each queue wait here, and how many are held. Any thread."""
        held: dict[str, int] = {}
        with self.ready:
            for entry in self.held.values():
                held[entry.queue] = held.get(entry.queue, 0) + 1
            return self._buffer.counts(), held

    def acknowledge(self, entries: Iterable[Entry]) -> None:
        """Acknowledges, and returns when the server has heard it. Raises BrokerUnavailable."""
        done = list(entries)
        if not done:
            return
        self.connection.ask(lambda future: self._acknowledge(done, future))
        with self.ready:
            for entry in done:
                if self.held.pop(entry.claim, None) is not None:
                    self._out -= entry.period == self._period

    def give_back_unheld(self, claims: Iterable[bytes]) -> list[Entry]:
        """Gives back what is held but not among these claims, uncounted; returns it."""
        keep = set(claims)
        with self.ready:
            entries = [entry for claim, entry in self.held.items() if claim not in keep]
        self._give_back(entries)
        return entries

    def look_again(self) -> None:
        """Says that what is known of queues has changed. Any thread."""
        self.connection.post(self._mark_stale)

    def purge(self, queue: str) -> int:
        """Drops what waits here of a queue; returns how many. Any thread."""
        with self.ready:
            entries = self._buffer.take_queues(lambda name: name == queue)
        self.acknowledge(entries)
        return len(entries)

    def close(self) -> None:
        """Gives everything back and says goodbye. Never raises: what cannot be given back so, the server takes back
        when the connection ends, and counts a delivery."""
        try:
            if self.connection.error is None:
                self._cancel(self._end_subscriptions())
                with self.ready:
                    entries = self._buffer.take_back(len(self._buffer)) + list(self.held.values())
                self._give_back(entries)
        except (BrokerUnavailable, BrokerFull) as error:
            log.warning("what was fetched goes back by the end of the connection, as one delivery: %s", error)
        self.connection.close()

    def _declare(self) -> None:
        self._topology.places(with_companions((queue, 0) for queue in self._queues))
        for queue in self._queues:
            if self._catalogue.queue(queue) is None:
                self._make_known(queue)

    def _make_known(self, queue: str) -> None:
        try:
            self._publisher.tell(QueueFact(queue))
        except BrokerFull as error:
            # Whoever sends to it makes it known too; fetching must begin while the server refuses messages.
            log.info("queue %s is not made known now: %s", queue, error)
            self._catalogue.learn(QueueFact(queue))

    def _take(self, limit: int, deadline: float) -> list[Delivery] | None:
        """Takes what is there, waiting until the deadline. None: the subscriptions have to be looked at again."""
        with self.ready:
            while True:
                if self.connection.error is not None:
                    raise self.connection.error
                now = time.monotonic()
                taken = self._hand_out(limit) if limit > 0 else []
                if taken or self._woken or self._commands or now >= deadline:
                    self._woken = False
                    return taken
                if self._stale and limit > 0:
                    return None
                self._waiting = True
                self.ready.wait(deadline - now)
                self._waiting = False

    def _hand_out(self, limit: int) -> list[Delivery]:
        deliveries = []
        for entry in self._buffer.take(limit, self._is_paused):
            entry.claim = b"%s.%x" % (self._epoch.encode(), next(self._claims))
            self._out += entry.period == self._period
            self.held[entry.claim] = entry
            if entry.deliveries > self.most_deliveries and entry.gate and not entry.copied:
                self._poison.append(entry)
            else:
                deliveries.append(entry.delivery(self._catalogue.is_revoked(entry.id)))
        if deliveries:
            self._prefetch.took(len(deliveries), len(self._buffer))
        return deliveries

    def _is_paused(self, queue: str) -> bool:
        known = self._catalogue.queue(queue)
        return known is not None and known.paused

    # Subscriptions.

    def _subscribe(self, limit: int) -> bool:
        """Subscribes where and for as much as is wanted, if need be. Returns when the first messages are there."""
        with self.ready:
            if len(self._buffer) >= limit and not self._stale:
                return False
            is_new = self._stale or not self._subscriptions
            if not is_new and not self._subscriptions.full:
                return False  # nothing is there that may not be pushed
            self._subscribing = True
            self._stale = False
            self._version = self._catalogue.version
        try:
            unwanted: list[str] = []
            if is_new:
                wanted = self._wanted_places()
                self._topology.places(wanted)
                with self.ready:
                    unwanted = self._subscriptions.remove_others(wanted)
                    missing = self._subscriptions.add(wanted, self._share(limit, len(self._queues)))
            else:
                with self.ready:
                    full = list(self._subscriptions.full)
                    missing = self._subscriptions.add(full, self._share(limit, len(full)))
            if not (missing or unwanted):
                return False
            self._cancel(unwanted)
            calls = [call for tag, place, count in missing for call in self._consume_calls(tag, place, count)]
            self._channel.call_all([*calls, _qos(1)])
        finally:
            self._subscribing = False
        return True

    def _share(self, limit: int, places: int) -> int:
        return self._prefetch.size_for(limit, self._out, places)

    def _wanted_places(self) -> list[Place]:
        places: list[Place] = []
        for queue in self._queues:
            known = self._catalogue.queue(queue)
            if known is None or not known.paused:
                levels = {0} if known is None else known.levels
                places += [(queue, level) for level in (names.FRONT, *sorted(levels, reverse=True))]
        return places

    def _consume_calls(self, tag: str, place: Place, count: int) -> list[Call]:
        (queue, level), period = place, self._period

        def arrived(raw: Any, method: Any, properties: Any, body: bytes) -> None:
            self._arrived(Entry(queue, level, method.delivery_tag, method.redelivered, properties, body), period)

        consume = {"queue": names.place(queue, level), "on_message_callback": arrived, "consumer_tag": tag}
        return [_qos(count), ("basic_consume", consume)]

    def _end_subscriptions(self) -> list[str]:
        with self.ready:
            return self._give_up_subscriptions()

    def _give_up_subscriptions(self) -> list[str]:
        """Takes out all; what they have pushed does not count against the next. Under `ready`."""
        self._period += 1
        self._out = 0
        return self._subscriptions.remove_others(())

    def _cancel(self, tags: Iterable[str]) -> None:
        self._channel.call_all([("basic_cancel", {"consumer_tag": tag}) for tag in tags])

    # In the connection's thread.

    def _opened(self, raw: Any) -> None:
        raw.add_on_cancel_callback(self._cancelled)

    def _cancelled(self, frame: Any) -> None:
        """The server ended a subscription: its queue was deleted, or moved. It is declared again at the next fetch."""
        with self.ready:
            gone = self._subscriptions.remove(frame.method.consumer_tag)
        if gone is not None:
            place = names.place(*gone)
            if self._topology.forget(place):
                log.warning("queue %s is gone: it is declared again", place)
        self._mark_stale()

    def _lost(self, error: Exception) -> None:
        if self.connection.error is None and not self.connection.closing:
            self.connection.abort(str(error).removeprefix(f"{self.connection.address.place}: "))
        self._ring()

    def _arrived(self, entry: Entry, period: int) -> None:
        entry.period = period
        if not entry.id:
            entry.id = f"{entry.queue} {self._epoch}.{entry.tag}"
        self._tags.delivered(entry.tag)
        if self._catalogue.is_purged(entry.queue, entry.headers):
            entry.period = -1
            self._send_acks([entry])
            return
        with self.ready:
            self._buffer.add(entry)
            if period == self._period:
                self._subscriptions.pushed((entry.queue, entry.level))
        self._watch()
        if self._waiting and not self._ringing:
            # Behind what is in the socket's buffer now: the lane wakes for many messages at once.
            self._ringing = True
            self.connection.raw.ioloop.call_later(0, self._ring)

    def _ring(self) -> None:
        self._ringing = False
        with self.ready:
            self.ready.notify_all()

    def _on_fact(self, entry: bytes, properties: Any) -> None:
        self._catalogue.read(entry)
        if self._catalogue.version != self._version:
            self._mark_stale()

    def _on_order(self, entry: bytes, properties: Any) -> None:
        order = _order.decode(entry)
        if order.ids:
            self._catalogue.revoke(order.ids, order.until)
        if order.command and (self._hears or order.at > self._since):
            with self.ready:
                self._commands.append(order.command)
                self.ready.notify_all()

    def _mark_stale(self) -> None:
        with self.ready:
            self._stale = True
            self.ready.notify_all()
        self._watch()

    def _acknowledge(self, entries: Sequence[Entry], future: Future[list[Any]]) -> None:
        self._send_acks(entries)
        self._channel.begin([_qos(1)], future)

    def _send_acks(self, entries: Collection[Entry]) -> None:
        with self.ready:
            for entry in entries:
                if entry.period == self._period:
                    self._subscriptions.settled((entry.queue, entry.level))
        if self._channel.raw is not None:
            for tag, multiple in self._tags.settle(entry.tag for entry in entries):
                self._channel.raw.basic_ack(tag, multiple)

    def _watch(self) -> None:
        """Looks several times a second while something waits here."""
        if not self._keeping and self.connection.error is None:
            self._keeping = True
            self.connection.raw.ioloop.call_later(_LOOK, self._keep)

    def _keep(self) -> None:
        """Gives back what nobody wants."""
        self._keeping = False
        entries: list[Entry] = []
        tags: list[str] = []
        with self.ready:
            if not self._subscribing:
                surplus = self._prefetch.surplus(len(self._buffer), time.monotonic())
                entries = self._buffer.take_back(surplus) if surplus else []
                entries += self._buffer.take_queues(self._is_paused)
            if entries:
                tags = self._give_up_subscriptions()
            if len(self._buffer):
                self._watch()
        if entries:
            self._return(entries, tags)

    def _return(self, entries: list[Entry], tags: Iterable[str]) -> None:
        """Ends subscriptions, sends copies back without waiting, and acknowledges once they are confirmed."""
        if self._channel.raw is None:
            return
        for tag in tags:
            cancel(self._channel.raw, tag)
        now = time.time()
        publication = self._publisher.begin([copy_of(entry, None, now) for entry in entries])
        publication.future.add_done_callback(
            lambda future: self.connection.post(lambda: self._returned(entries, publication))
        )

    def _returned(self, entries: list[Entry], publication: Publication) -> None:
        gone = set(publication.confirmed) - set(publication.returned)
        self._send_acks([entries[position] for position in gone])
        left = [entry for position, entry in enumerate(entries) if position not in gone]
        if left:
            with self.ready:
                self._buffer.put_back(left)
            self._watch()

    def _give_back(self, entries: Sequence[Entry]) -> None:
        ordered = sorted(entries, key=lambda entry: entry.tag)
        now = time.time()
        copies = [copy_of(entry, None, now) for entry in ordered]
        self._publisher.publish(copies)
        self.acknowledge(ordered)


def _qos(count: int) -> Call:
    """The prefetch of subscriptions that are made after it; also a question that is answered behind all before it."""
    return ("basic_qos", {"prefetch_count": count})
