"""What a process sends to RabbitMQ, and asks of it: two connections, each opened at its first use.

The server stops reading from a connection that publishes while its memory or disk alarm is on. So one connection
publishes and another looks; the one that consumes (`engine_rabbitmq.session`) does neither. Fetching, acknowledging and
looking go on when the server is full.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

import msgspec
import pika

from engine.errors import BrokerUnavailable, TransportError
from engine_rabbitmq import delay_ladder, names
from engine_rabbitmq.address import Address
from engine_rabbitmq.catalogue import Catalogue, Order, QueueFact
from engine_rabbitmq.confirms import ConfirmChannel, Publication
from engine_rabbitmq.connection import Connection
from engine_rabbitmq.messages import Outgoing
from engine_rabbitmq.streams import StreamReader
from engine_rabbitmq.topology import Topology, with_companions

_encode = msgspec.json.Encoder().encode
_persistent = pika.BasicProperties(delivery_mode=2)


class PublishLink:
    """The connection that publishes, open."""

    def __init__(self, address: Address, topology: Callable[[Connection], Topology]) -> None:
        self.connection = Connection(address, "publisher")
        self.connection.open()
        self.channel = ConfirmChannel(self.connection)
        self.topology = topology(self.connection)
        self.declaring = threading.Lock()
        self.ready: set[str] = set()
        """Places that this connection has seen to."""
        try:
            self.channel.open()
        except BaseException:
            self.connection.close()
            raise


class OperatorLink:
    """The connection that looks, open: counts, dead letters, declarations for clients."""

    def __init__(self, address: Address, topology: Callable[[Connection], Topology], catalogue: Catalogue) -> None:
        self.connection = Connection(address, "operator")
        self.connection.open()
        self.topology = topology(self.connection)
        self._reader = StreamReader(self.connection, names.QUEUES, lambda entry, properties: catalogue.read(entry))

    def read(self) -> None:
        """Learns what the stream of queues holds now."""
        self.topology.streams()
        self._reader.read()


class Publisher:
    """Publishes for all lanes of a process, and looks for its clients. It connects again after a loss."""

    def __init__(self, address: Address, topology: Callable[[Connection], Topology], catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._address = address
        self._topology = topology
        self._publish_link: PublishLink | None = None
        self._operator_link: OperatorLink | None = None
        self._opening = threading.Lock()
        self._looking = threading.Lock()

    def publish_link(self) -> PublishLink:
        """Returns the connection that publishes. Raises BrokerUnavailable, and BrokerFull when the server refuses
        messages. Any thread."""
        with self._opening:
            if self._publish_link is None or self._publish_link.connection.error is not None:
                self._publish_link = PublishLink(self._address, self._topology)
            return self._publish_link

    def operator_link(self) -> OperatorLink:
        """Returns the connection that looks, after the catalogue has learned what the stream of queues holds now. Any
        thread. Raises BrokerUnavailable."""
        with self._looking:
            if self._operator_link is None or self._operator_link.connection.error is not None:
                self._operator_link = OperatorLink(self._address, self._topology, self.catalogue)
            self._operator_link.read()
            return self._operator_link

    def publish(self, items: Sequence[Outgoing]) -> None:
        """As `send`, for messages that are sent again as new ones should this fail."""
        if items:
            self.send(Publication(items))

    def send(self, publication: Publication) -> None:
        """Sends messages, and returns when the server has them. Declares what is missing. Any thread.

        Raises BrokerUnavailable, BrokerFull, and TransportError for a message that no queue takes. The same publication
        may be given again: what is on its way is waited for, what the server has is not sent again, and the rest is
        marked.
        """
        if publication.is_under_way:
            returned = publication.channel.wait(publication)
        else:
            publication.renew()
            link = self.publish_link()
            late = [item for item in publication.items if item.exchange]
            if late:
                self._see_to(link, {(item.queue, item.level) for item in late})
                self._raise_ladder(link, late)
            returned = link.channel.send(publication)
        if returned:
            self._send_returned(publication, returned)

    def begin(self, items: Sequence[Outgoing]) -> Publication:
        """Begins to send to places that exist, without waiting; not at all while there is no connection, or the server
        refuses messages. Any thread, also a connection's own."""
        publication = Publication(items)
        link = self._publish_link
        if link is None or link.connection.error is not None or link.connection.blocked_since is not None:
            publication.future.set_exception(BrokerUnavailable(f"{self._address.place}: messages cannot be sent now"))
        else:
            link.channel.start(publication)
        return publication

    def tell(self, fact: QueueFact) -> None:
        """Writes a fact into the stream of queues. Raises BrokerUnavailable or BrokerFull."""
        self._append(names.QUEUES, [_encode(fact)])
        self.catalogue.learn(fact)

    def order(self, orders: Iterable[Order]) -> None:
        """Writes into the stream of revocations. Raises BrokerUnavailable or BrokerFull."""
        self._append(names.REVOKED, [_encode(order) for order in orders])

    def close(self) -> None:
        """Closes the connections. Never raises."""
        with self._opening, self._looking:
            open_ones = [one for one in (self._publish_link, self._operator_link) if one is not None]
            self._publish_link = self._operator_link = None
        for one in open_ones:
            one.connection.close()

    def _send_returned(self, publication: Publication, returned: Sequence[int]) -> None:
        """Declares the places that were missing, and sends their messages once more."""
        publication.confirmed.difference_update(returned)
        link = self.publish_link()
        again = Publication([publication.items[position] for position in returned])
        self._see_to(link, {(item.queue, item.level) for item in again.items if item.queue}, again=True)
        if link.channel.send(again):
            raise TransportError(f"{self._address.place}: no queue takes messages for {again.items[0].key!r}")
        publication.confirmed.update(returned)

    def _append(self, stream: str, entries: Sequence[bytes]) -> None:
        link = self.publish_link()
        with link.declaring:
            link.topology.streams()
        link.channel.send(Publication([Outgoing("", stream, entry, _persistent, "", 0) for entry in entries]))

    def _see_to(self, link: PublishLink, places: set[tuple[str, int]], *, again: bool = False) -> None:
        """Declares places, once in a connection or ``again``, and makes unknown ones known first: a worker that hears
        of a level fetches from it."""
        missing = [(queue, level) for queue, level in places if again or names.place(queue, level) not in link.ready]
        if not missing:
            return
        self.operator_link()
        for queue, level in missing:
            known = self.catalogue.queue(queue)
            used = level if level in names.PRIORITIES else None
            if known is None or (used is not None and used not in known.levels):
                self.tell(QueueFact(queue, level=used))
        with link.declaring:
            link.topology.places(with_companions(missing), again=again)
        link.ready.update(names.place(queue, level) for queue, level in missing)

    def _raise_ladder(self, link: PublishLink, late: Iterable[Outgoing]) -> None:
        with link.declaring:
            link.topology.ladder(max(delay_ladder.rung_of(item.exchange) for item in late))
