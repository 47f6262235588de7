"""A RabbitMQ that refuses, closes, blocks and cancels to order: for tests of tasks that use one, and of the engine.

    with ScriptedAmqp() as rabbit:
        rabbit.script("Queue.Declare", closes_channel(406, "PRECONDITION_FAILED - inequivalent arg 'durable'"))
        client = ...connect to rabbit.url...

Any user may enter. All queues and exchanges exist. What is published to the default exchange waits in the queue of that
name; to another exchange, it is confirmed and forgotten. pika's classes read and write the frames: it takes the extra
``rabbitmq``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from pika import BasicProperties, frame, spec

from engine.testing.faults.scripted import Answer, Link, ScriptedServer
from engine.testing.faults.scripted_queues import Consumer, Message, Queues

_HEAD = struct.Struct(">BHL")
_PROPERTIES = {
    "product": "RabbitMQ",
    "version": "3.13.0",
    "capabilities": {
        "publisher_confirms": True,
        "exchange_exchange_bindings": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "authentication_failure_close": True,
        "per_consumer_qos": True,
    },
}
Method = Any
"""One of pika.spec's."""


def closes_channel(code: int, text: str) -> Answer:
    """The server closes the channel: ``404, "NOT_FOUND - no queue 'x' in vhost '/'"``."""
    return Answer(lambda channel: _frame(channel, spec.Channel.Close(code, text, 0, 0)))


def closes_connection(code: int, text: str) -> Answer:
    """The server closes the connection: ``320, "CONNECTION_FORCED - broker forced connection closure"``."""
    return Answer(_frame(0, spec.Connection.Close(code, text, 0, 0)))


GARBAGE = Answer(b"\x01\x00\x01\x00\x00\x00\x04\xff\xff\xff\xff\x00")
"""A frame of an unknown method that does not end as frames do."""
HALF_A_FRAME = Answer(b"\x01\x00\x01\x00\x00\x00\xff\x00", then="close")
"""The connection ends in the middle of a frame."""


class ScriptedAmqp(ScriptedServer):
    """See above. The word of a line is the name of a method, as pika writes it: "Connection.Open", "Basic.Publish"."""

    def __init__(self) -> None:
        self.queues = Queues()
        """What it keeps, and who gets it."""
        self.published: list[bytes] = []
        """The bodies of what was published, and not refused."""
        self._blocked = False
        self._unconfirmed: list[tuple[Link, int, int]] = []
        super().__init__()

    @property
    def url(self) -> str:
        """Its address."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    def serve(self, link: Link, server: Link | None) -> None:
        """See `ScriptedServer.serve`."""
        with link.sock.makefile("rb") as stream:
            try:
                _Conversation(self, link, stream).run()
            finally:
                self.queues.leave(link)

    def put(self, queue: str, body: bytes, properties: BasicProperties | None = None) -> None:
        """Puts a message into a queue, as if somebody had published it."""
        self.queues.put(Message(queue, properties or BasicProperties(), body))

    def block(self, reason: str = "low on memory") -> None:
        """Tells every client that what it publishes is not taken now; nothing is confirmed until `unblock`."""
        self._blocked = True
        self._tell_all(spec.Connection.Blocked(reason))

    def unblock(self) -> None:
        """Takes `block` back."""
        self._blocked = False
        self._tell_all(spec.Connection.Unblocked())
        while self._unconfirmed:
            self.confirm(*self._unconfirmed.pop(0))

    def cancel(self, queue: str) -> None:
        """Ends the subscriptions to a queue, as when it is deleted."""
        for one in self.queues.consumers(queue):
            link, channel = one.place
            self.queues.unsubscribe(one.place, one.tag)
            link.send(_frame(channel, spec.Basic.Cancel(one.tag)))

    def confirm(self, link: Link, channel: int, number: int) -> None:
        """Confirms a message that came over this channel, when the server takes messages."""
        if self._blocked:
            self._unconfirmed.append((link, channel, number))
        else:
            link.send(_frame(channel, spec.Basic.Ack(number)))

    def _tell_all(self, method: Method) -> None:
        for link in self.links():
            link.send(_frame(0, method))


@dataclass
class _Incoming:
    """A message that is being published."""

    method: Method
    header: Any = None
    body: bytes = b""


class _Conversation:
    """What is said over one connection."""

    def __init__(self, server: ScriptedAmqp, link: Link, stream: BinaryIO) -> None:
        self._server = server
        self._link = link
        self._stream = stream
        self._closed: set[int] = set()
        """Channels that were closed by the script, until the client has said that it knows. 0: the connection."""
        self._confirmed: dict[int, int] = {}
        """By channel with confirms: the number of the last message."""
        self._incoming: dict[int, _Incoming] = {}
        self._notes: dict[type[Method], Callable[[int, Method], None]] = {
            spec.Confirm.Select: lambda channel, said: self._confirmed.update({channel: 0}),
            spec.Channel.Open: lambda channel, said: self._leave(channel),
            spec.Channel.Close: lambda channel, said: self._leave(channel),
            spec.Basic.Consume: self._subscribe,
            spec.Basic.Cancel: lambda channel, said: server.queues.unsubscribe((link, channel), said.consumer_tag),
            spec.Basic.Ack: self._settle,
            spec.Basic.Nack: self._settle,
            spec.Basic.Reject: self._settle,
        }
        """What else is done about a method, behind its answer."""

    def run(self) -> None:
        """Greets, and answers until the end of the connection. Raises OSError."""
        self._stream.read(8)  # the client's protocol header
        if not self._answer("Connection.Start", 0, spec.Connection.Start(0, 9, _PROPERTIES, "PLAIN", "en_US")):
            return
        while (said := self._read()) is not None and self._hear(said):
            pass

    def _read(self) -> Any:
        head = self._stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        rest = self._stream.read(_HEAD.unpack(head)[2] + 1)
        return frame.decode_frame(head + rest)[1]

    def _hear(self, said: Any) -> bool:
        if isinstance(said, frame.Method):
            return self._hear_method(said.channel_number, said.method)
        if isinstance(said, frame.Heartbeat):
            self._link.send(frame.Heartbeat().marshal())
        elif (incoming := self._incoming.get(said.channel_number)) is not None:
            if isinstance(said, frame.Header):
                incoming.header = said
            else:
                incoming.body += said.fragment
            if len(incoming.body) >= incoming.header.body_size:
                self._take(said.channel_number, self._incoming.pop(said.channel_number))
        return True

    def _hear_method(self, channel: int, method: Method) -> bool:
        if isinstance(method, spec.Connection.CloseOk):
            return False
        if isinstance(method, spec.Channel.CloseOk):
            self._closed.discard(channel)
        if {0, channel} & self._closed:
            return True
        if isinstance(method, spec.Basic.Publish):
            self._incoming[channel] = _Incoming(method)
        reply = _REPLIES.get(type(method))
        right = reply(method) if reply is not None else None
        if isinstance(right, spec.Queue.DeclareOk):
            right.message_count = self._server.queues.count(right.queue)
        going = self._answer(method.NAME, channel, right)
        note = self._notes.get(type(method))
        if note is not None and not {0, channel} & self._closed:
            note(channel, method)
        return going and not isinstance(method, spec.Connection.Close)

    def _answer(self, name: str, channel: int, right: Method | None) -> bool:
        """Gives the script's answer, or the right one. False: the connection ends with it."""
        answer = self._server.next_line(name)
        if right is not None and (answer is None or answer.right):
            self._link.send(_frame(channel, right))
        if answer is None:
            return True
        said = _method_in(answer.bytes_for(channel))
        if isinstance(said, spec.Connection.Close):
            self._closed.add(0)
        elif isinstance(said, spec.Channel.Close):
            self._closed.add(channel)
            self._leave(channel)
        self._incoming.pop(channel, None)
        return self._link.say(answer, channel)

    def _leave(self, channel: int) -> None:
        self._confirmed.pop(channel, None)
        self._server.queues.leave(self._link, channel)

    def _subscribe(self, channel: int, said: Method) -> None:
        self._server.queues.subscribe(Consumer((self._link, channel), said.consumer_tag, said.queue, not said.no_ack))

    def _settle(self, channel: int, said: Method) -> None:
        multiple, requeue = getattr(said, "multiple", False), getattr(said, "requeue", False)
        self._server.queues.settle((self._link, channel), said.delivery_tag, multiple=multiple, requeue=requeue)

    def _take(self, channel: int, incoming: _Incoming) -> None:
        self._server.published.append(incoming.body)
        if not incoming.method.exchange:
            queue = incoming.method.routing_key
            self._server.queues.put(Message(queue, incoming.header.properties, incoming.body))
        if channel in self._confirmed:
            self._confirmed[channel] += 1
            self._server.confirm(self._link, channel, self._confirmed[channel])


_REPLIES: dict[type[Method], Callable[[Method], Method]] = {
    spec.Connection.StartOk: lambda said: spec.Connection.Tune(2047, 131072, 0),
    spec.Connection.Open: lambda said: spec.Connection.OpenOk(),
    spec.Connection.Close: lambda said: spec.Connection.CloseOk(),
    spec.Channel.Open: lambda said: spec.Channel.OpenOk(),
    spec.Channel.Close: lambda said: spec.Channel.CloseOk(),
    spec.Exchange.Declare: lambda said: spec.Exchange.DeclareOk(),
    spec.Exchange.Bind: lambda said: spec.Exchange.BindOk(),
    spec.Queue.Declare: lambda said: spec.Queue.DeclareOk(said.queue or "amq.gen-1", 0, 0),
    spec.Queue.Bind: lambda said: spec.Queue.BindOk(),
    spec.Queue.Purge: lambda said: spec.Queue.PurgeOk(0),
    spec.Queue.Delete: lambda said: spec.Queue.DeleteOk(0),
    spec.Basic.Qos: lambda said: spec.Basic.QosOk(),
    spec.Basic.Consume: lambda said: spec.Basic.ConsumeOk(said.consumer_tag),
    spec.Basic.Cancel: lambda said: spec.Basic.CancelOk(said.consumer_tag),
    spec.Basic.Get: lambda said: spec.Basic.GetEmpty(),
    spec.Confirm.Select: lambda said: spec.Confirm.SelectOk(),
}
"""What the server says to a method when all is well."""


def _method_in(data: bytes) -> Method | None:
    """Returns the method in the first frame of an answer; None: there is none, as in `GARBAGE`."""
    if len(data) < _HEAD.size or data[-1] != spec.FRAME_END:
        return None
    first = frame.decode_frame(data)[1]
    return first.method if isinstance(first, frame.Method) else None


def _frame(channel: int, method: Method) -> bytes:
    data: bytes = frame.Method(channel, method).marshal()
    return data
