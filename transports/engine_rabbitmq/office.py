"""The publishing connection: everything that is sent or asked for goes through it, but fetching and acknowledging.

The server stops reading from a connection that publishes while its memory or disk alarm is on. So the connection that
consumes never publishes, and fetching and acknowledging go on.
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

    def __init__(self, address: Address, topology: Callable[[Loop], Topology], ledger: Ledger) -> None:
        self.loop = Loop(address, "publisher")
        self.loop.open()
        self.sender = Sender(self.loop)
        self.topology = topology(self.loop)
        self.declaring = threading.Lock()
        self.reader = Reader(self.loop, names.QUEUES, lambda entry: learn(ledger, entry))
        self.ready: set[str] = set()
        """Places that this connection has seen to."""
        try:
            self.sender.open()
        except BaseException:
            self.loop.close()
            raise


class Office:
    """Publishes for all lanes of a process, and connects again after a loss."""

    def __init__(self, address: Address, topology: Callable[[Loop], Topology], ledger: Ledger) -> None:
        self.ledger = ledger
        self._address = address
        self._topology = topology
        self._line: Line | None = None
        self._opening = threading.Lock()

    def line(self) -> Line:
        """Returns the connection, opened if need be. Raises BrokerUnavailable. Any thread."""
        with self._opening:
            if self._line is None or self._line.loop.error is not None:
                self._line = Line(self._address, self._topology, self.ledger)
            return self._line

    def publish(self, items: Sequence[Outgoing]) -> None:
        """Sends messages, and returns when the server has them. Declares what is missing. Any thread.

        Raises BrokerUnavailable, BrokerFull, and TransportError for a message that no queue takes.
        """
        if items:
            self.carry_out(Sending(items))

    def carry_out(self, sending: Sending) -> None:
        """As `publish`; after an error the sending knows what the server has."""
        line = self.line()
        late = {(item.queue, item.level) for item in sending.items if item.exchange}
        if late:
            self._see_to(line, late)
            self._raise_ladder(line, sending.items)
        returned = line.sender.send(sending)
        if not returned:
            return
        sending.confirmed.difference_update(returned)
        missing = Sending([sending.items[position] for position in returned])
        self._see_to(line, {(item.queue, item.level) for item in missing.items if item.queue}, again=True)
        if line.sender.send(missing):
            raise TransportError(f"{self._address.place}: no queue takes messages for {missing.items[0].key!r}")

    def begin(self, items: Sequence[Outgoing]) -> Sending:
        """Begins to send to places that exist, without waiting; not at all while there is no connection. Any thread,
        also a connection's own."""
        sending = Sending(items)
        line = self._line
        if line is None or line.loop.error is not None:
            sending.future.set_exception(BrokerUnavailable(f"{self._address.place}: not connected"))
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

    def look(self) -> Line:
        """Returns the connection, after the ledger has learned what the stream of queues holds now."""
        line = self.line()
        with line.declaring:
            line.topology.streams()
            line.reader.read()
        return line

    def close(self) -> None:
        """Closes the connection. Never raises."""
        with self._opening:
            line, self._line = self._line, None
        if line is not None:
            line.loop.close()

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

    def _raise_ladder(self, line: Line, items: Iterable[Outgoing]) -> None:
        top = max(names.rung_of(item.exchange) for item in items if item.exchange)
        with line.declaring:
            line.topology.ladder(top)


def learn(ledger: Ledger, entry: bytes) -> None:
    """Adds an entry of the stream of queues."""
    ledger.learn(_fact.decode(entry))


def whole(places: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Returns places with what belongs to each queue whatever is sent: the dead first, as the others point there."""
    wanted = dict.fromkeys((queue, level) for queue, own in places for level in (names.DEAD, 0, names.FRONT, own))
    return list(wanted)
