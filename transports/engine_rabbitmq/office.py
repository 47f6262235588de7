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
from engine_rabbitmq import names
from engine_rabbitmq.address import Address
from engine_rabbitmq.journals import Fact, Ledger, Order, Reader
from engine_rabbitmq.loop import Loop
from engine_rabbitmq.messages import Outgoing
from engine_rabbitmq.sender import Sender, Sending
from engine_rabbitmq.topology import Topology

_encode = msgspec.json.Encoder().encode
_fact = msgspec.json.Decoder(Fact)
_persistent = pika.BasicProperties(delivery_mode=2)


class Line:
    """One publishing connection, open."""

    def __init__(self, address: Address, topology: Callable[[Loop], Topology]) -> None:
        self.loop = Loop(address, "publisher")
        self.loop.open()
        self.sender = Sender(self.loop)
        self.topology = topology(self.loop)
        self.declaring = threading.Lock()
        self.ready: set[str] = set()
        """Places that this connection has seen to."""
        try:
            self.sender.open()
        except BaseException:
            self.loop.close()
            raise


class View:
    """One connection that looks, open."""

    def __init__(self, address: Address, topology: Callable[[Loop], Topology], ledger: Ledger) -> None:
        self.loop = Loop(address, "operator")
        self.loop.open()
        self.topology = topology(self.loop)
        self._reader = Reader(self.loop, names.QUEUES, lambda entry, properties: learn(ledger, entry))

    def read(self) -> None:
        """Learns what the stream of queues holds now."""
        self.topology.streams()
        self._reader.read()


class Office:
    """Publishes for all lanes of a process, and looks for its clients. It connects again after a loss."""

    def __init__(self, address: Address, topology: Callable[[Loop], Topology], ledger: Ledger) -> None:
        self.ledger = ledger
        self._address = address
        self._topology = topology
        self._line: Line | None = None
        self._view: View | None = None
        self._opening = threading.Lock()
        self._looking = threading.Lock()

    def line(self) -> Line:
        """Returns the connection that publishes. Raises BrokerUnavailable, and BrokerFull when the server refuses
        messages. Any thread."""
        with self._opening:
            if self._line is None or self._line.loop.error is not None:
                self._line = Line(self._address, self._topology)
            return self._line

    def look(self) -> View:
        """Returns the connection that looks, after the ledger has learned what the stream of queues holds now. Raises
        BrokerUnavailable. Any thread."""
        with self._looking:
            if self._view is None or self._view.loop.error is not None:
                self._view = View(self._address, self._topology, self.ledger)
            self._view.read()
            return self._view

    def publish(self, items: Sequence[Outgoing]) -> None:
        """As `carry_out`, for messages that are sent again as new ones should this fail."""
        if items:
            self.carry_out(Sending(items))

    def carry_out(self, sending: Sending) -> None:
        """Sends messages, and returns when the server has them. Declares what is missing. Any thread.

        Raises BrokerUnavailable, BrokerFull, and TransportError for a message that no queue takes. The same sending may
        be given again: what is on its way is waited for, what the server has is not sent again, and the rest is marked.
        """
        if sending.is_under_way:
            returned = sending.sender.wait(sending)
        else:
            sending.renew()
            line = self.line()
            late = [item for item in sending.items if item.exchange]
            if late:
                self._see_to(line, {(item.queue, item.level) for item in late})
                self._raise_ladder(line, late)
            returned = line.sender.send(sending)
        if returned:
            self._send_returned(sending, returned)

    def begin(self, items: Sequence[Outgoing]) -> Sending:
        """Begins to send to places that exist, without waiting; not at all while there is no connection, or the server
        refuses messages. Any thread, also a connection's own."""
        sending = Sending(items)
        line = self._line
        if line is None or line.loop.error is not None or line.loop.blocked_since is not None:
            sending.future.set_exception(BrokerUnavailable(f"{self._address.place}: messages cannot be sent now"))
        else:
            line.sender.start(sending)
        return sending

    def tell(self, fact: Fact) -> None:
        """Writes a fact into the stream of queues. Raises BrokerUnavailable or BrokerFull."""
        self._append(names.QUEUES, [_encode(fact)])
        self.ledger.learn(fact)

    def order(self, orders: Iterable[Order]) -> None:
        """Writes into the stream of revocations. Raises BrokerUnavailable or BrokerFull."""
        self._append(names.REVOKED, [_encode(order) for order in orders])

    def close(self) -> None:
        """Closes the connections. Never raises."""
        with self._opening, self._looking:
            open_ones = [one for one in (self._line, self._view) if one is not None]
            self._line = self._view = None
        for one in open_ones:
            one.loop.close()

    def _send_returned(self, sending: Sending, returned: Sequence[int]) -> None:
        """Declares the places that were missing, and sends their messages once more."""
        line = self.line()
        sending.confirmed.difference_update(returned)
        again = Sending([sending.items[position] for position in returned])
        self._see_to(line, {(item.queue, item.level) for item in again.items if item.queue}, again=True)
        if line.sender.send(again):
            raise TransportError(f"{self._address.place}: no queue takes messages for {again.items[0].key!r}")
        sending.confirmed.update(returned)

    def _append(self, stream: str, entries: Sequence[bytes]) -> None:
        line = self.line()
        with line.declaring:
            line.topology.streams()
        line.sender.send(Sending([Outgoing("", stream, entry, _persistent, "", 0) for entry in entries]))

    def _see_to(self, line: Line, places: set[tuple[str, int]], *, again: bool = False) -> None:
        """Declares places, once in a connection or ``again``, and makes unknown ones known first: a worker that hears
        of a level fetches from it."""
        missing = [(queue, level) for queue, level in places if again or names.place(queue, level) not in line.ready]
        if not missing:
            return
        self.look()
        for queue, level in missing:
            known = self.ledger.queue(queue)
            used = level if level in names.PRIORITIES else None
            if known is None or (used is not None and used not in known.levels):
                self.tell(Fact(queue, level=used))
        with line.declaring:
            line.topology.places(whole(missing), again=again)
        line.ready.update(names.place(queue, level) for queue, level in missing)

    def _raise_ladder(self, line: Line, late: Iterable[Outgoing]) -> None:
        with line.declaring:
            line.topology.ladder(max(names.rung_of(item.exchange) for item in late))


def learn(ledger: Ledger, entry: bytes) -> None:
    """Adds an entry of the stream of queues."""
    ledger.learn(_fact.decode(entry))


def whole(places: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Returns places with what belongs to each queue whatever is sent: the dead first, as the others point there."""
    wanted = dict.fromkeys((queue, level) for queue, own in places for level in (names.DEAD, 0, names.FRONT, own))
    return list(wanted)
