"""Publishing with confirms: everything is sent at once, in a window, and done when the server has it on disk."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from itertools import takewhile
from typing import Any

import pika

from engine.errors import BrokerFull, BrokerUnavailable, TransportError
from engine_rabbitmq.channel import Channel
from engine_rabbitmq.connection import ANSWER_TIMEOUT, Connection, fail
from engine_rabbitmq.messages import Outgoing, mark_replayed

WINDOW = 500
"""Messages on their way that are not confirmed."""
WINDOW_BYTES = 16 * 2**20
"""Bytes on their way, above which no further message is sent until some are confirmed."""
BLOCKED_TIMEOUT = 3.0
"""Seconds that a publish waits while the server refuses messages."""
_LOOK = 0.25
_PROBE = "engine.probe"
"""A queue that does not exist."""


class Publication:
    """Messages on their way. The future's result: the positions of those that no queue takes."""

    def __init__(self, items: Sequence[Outgoing]) -> None:
        self.items = items
        self.future: Future[list[int]] = Future()
        self.channel: Any = None
        """The `ConfirmChannel` that has taken it."""
        self.confirmed: set[int] = set()
        """Positions of what the server has."""
        self.returned: list[int] = []
        self.refused: str | None = None
        self.next = 0

    @property
    def is_under_way(self) -> bool:
        """Has it been sent, over a connection that is still up, and not been answered?"""
        return self.channel is not None and not self.future.done()

    def renew(self) -> None:
        """Makes it ready for another attempt, if there was one: what the server may have is marked. What came back is
        confirmed too, and the server does not have it."""
        if self.channel is None:
            return
        for position, item in enumerate(self.items):
            if position not in self.confirmed:
                mark_replayed(item)
        self.confirmed.difference_update(self.returned)
        self.future, self.channel, self.next = Future(), None, 0
        self.returned, self.refused = [], None


class ConfirmChannel:
    """A channel in confirm mode. Any thread may send; what is sent keeps its order."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = Channel(connection, self._opened)
        self._channel.on_closed = self._closed
        self._queue: list[Publication] = []
        self._pending: dict[int, tuple[Publication, int, Future[list[int]]]] = {}
        """By number: what is not answered. The future tells the attempt: answers to one that was given up do not count.
        """
        self._bytes = 0
        self._tag = 0

    def open(self) -> None:
        """Opens the channel. Raises BrokerUnavailable, and BrokerFull when the server refuses messages: it says so only
        to who has published something, so this begins with a message for nobody."""
        self._channel.call("confirm_delivery", ack_nack_callback=self._on_confirm)
        self.send(Publication([Outgoing("", _PROBE, b"", pika.BasicProperties(), "", 0)]))

    def start(self, publication: Publication) -> None:
        """Begins to send, without waiting. Any thread."""
        publication.channel = self
        if self._connection.error is not None:
            fail(publication.future, self._connection.error)
            return
        self._connection.post(lambda: self._enqueue(publication))

    def send(self, publication: Publication) -> list[int]:
        """Sends, and waits. As `wait`; what the server refuses before anything was sent will not arrive later."""
        since = time.monotonic()
        while self._connection.blocked_since is not None:
            self._give_up(time.monotonic(), since)
            time.sleep(_LOOK)
        self.start(publication)
        return self.wait(publication)

    def wait(self, publication: Publication) -> list[int]:
        """Waits for what was started. Returns the positions of messages that no queue takes.

        Raises BrokerUnavailable when the connection is lost, and BrokerFull when the server refuses messages: then they
        are still on their way, and `wait` may be called again.
        """
        seen, since = 0, time.monotonic()
        while True:
            try:
                return publication.future.result(_LOOK)
            except TimeoutError:
                if publication.future.done():
                    raise
            now = time.monotonic()
            if len(publication.confirmed) > seen:
                seen, since = len(publication.confirmed), now
            self._give_up(now, since)

    def _give_up(self, now: float, since: float) -> None:
        blocked = self._connection.blocked_since
        place = self._connection.address.place
        if self._connection.error is not None:
            raise self._connection.error
        if blocked is not None:
            if now - max(blocked, since) >= BLOCKED_TIMEOUT:
                raise BrokerFull(f"{place}: the server refuses messages: memory or disk alarm: make room there")
        elif now - since >= ANSWER_TIMEOUT:
            raise self._connection.abort(f"no confirm for {ANSWER_TIMEOUT:g} s")

    # In the connection's thread.

    def _opened(self, raw: Any) -> None:
        raw.add_on_return_callback(self._on_return)

    def _enqueue(self, publication: Publication) -> None:
        if self._channel.raw is None:
            fail(publication.future, BrokerUnavailable(f"{self._connection.address.place}: the channel is closed"))
            return
        self._queue.append(publication)
        self._pump()

    def _pump(self) -> None:
        pending = self._pending
        while self._queue:
            publication = self._queue[0]
            items, confirmed = publication.items, publication.confirmed
            while publication.next < len(items):
                if len(pending) >= WINDOW or self._bytes >= WINDOW_BYTES:
                    return
                if publication.next not in confirmed and not self._publish(publication, items[publication.next]):
                    break
                publication.next += 1
            self._queue.pop(0)
            if len(confirmed) == len(items) and not publication.future.done():
                publication.future.set_result([])

    def _publish(self, publication: Publication, item: Outgoing) -> bool:
        try:
            self._channel.raw.basic_publish(item.exchange, item.key, item.body, item.properties, mandatory=True)
        except Exception as error:  # noqa: BLE001 - pika cannot encode this message: the others go on
            name = item.properties.message_id
            fail(publication.future, TransportError(f"message {name!r} cannot be sent: {error}"))
            return False
        self._tag += 1
        self._bytes += len(item.body)
        self._pending[self._tag] = (publication, publication.next, publication.future)
        return True

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tag: int = method.delivery_tag
        refused = method.NAME == "Basic.Nack"
        for one in self._tags(tag) if method.multiple else (tag,):
            self._confirm(one, refused)
        if self._channel.raw is not None:
            self._pump()

    def _tags(self, until: int) -> Iterable[int]:
        return list(takewhile(lambda tag: tag <= until, self._pending))

    def _confirm(self, tag: int, refused: bool) -> None:
        entry = self._pending.pop(tag, None)
        if entry is None:
            return
        publication, position, attempt = entry
        item = publication.items[position]
        self._bytes -= len(item.body)
        if attempt is not publication.future:
            return
        if refused:
            publication.refused = item.key
        else:
            publication.confirmed.add(position)
        if publication.refused is not None:
            place = self._connection.address.place
            fail(publication.future, BrokerFull(f"{place}: queue {publication.refused!r} has reached its length limit"))
        elif len(publication.confirmed) == len(publication.items) and not publication.future.done():
            publication.future.set_result(sorted(publication.returned))

    def _on_return(self, raw: Any, method: Any, properties: Any, body: bytes) -> None:
        """A message comes back before it is confirmed: it is the first of that address and id."""
        for publication, position, attempt in self._pending.values():
            item = publication.items[position]
            same = item.key == method.routing_key and item.exchange == method.exchange
            if not same or item.properties.message_id != properties.message_id:
                continue
            if attempt is not publication.future:
                return
            if position not in publication.returned:
                publication.returned.append(position)
                return

    def _closed(self, error: Exception) -> None:
        publications = {publication for publication, _, _ in self._pending.values()} | set(self._queue)
        self._pending.clear()
        self._queue.clear()
        for publication in publications:
            fail(publication.future, error)
        if self._connection.closing:
            return
        # Which of them the server has is unknown: only a new connection begins with a clear count.
        self._connection.abort(f"the publishing channel was closed: {error}")
