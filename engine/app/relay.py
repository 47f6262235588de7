"""The broker and the result backend, as seen by a process that reaches them through the dispatcher.

A child asks over its slot's socket, another process of the host over a connection to the engine's control socket; both
send `engine.app.wire.Request` packets and get `Reply` packets. Arguments and values are msgpack; `ARGS` and `VALUES`
hold their types for both sides.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias, cast

import msgspec

from engine import errors
from engine.app import wire
from engine.contract.message import Batch, Envelope
from engine.contract.results import Record, ResultBackend
from engine.contract.transport import (
    CannotTell,
    Capabilities,
    Consumer,
    DeadLetter,
    Found,
    QueueCounts,
    Scheduled,
    Transport,
    Worker,
)
from engine.errors import BrokerUnavailable, TransportError

ARGS: Mapping[str, Any] = {
    "publish": tuple[list[Envelope], Batch | None],
    "counts": tuple[list[str] | None],
    "revoke": tuple[list[str], float],
    "find": tuple[str],
    "scheduled": tuple[int, str | None],
    "dead": tuple[int, str | None],
    "dead_letter": tuple[str],
    "replay": tuple[list[str]],
    "drop": tuple[list[str]],
    "purge": tuple[str],
    "pause": tuple[str, bool],
    "broadcast": tuple[bytes],
    "check": tuple[()],
    "capabilities": tuple[()],
    "get": tuple[list[str]],
    "wait": tuple[list[str], float],
    "forget": tuple[list[str]],
    "check_results": tuple[()],
}
"""Every method that may be called, with the types of its arguments."""
VALUES: Mapping[str, Any] = {
    "publish": None,
    "counts": dict[str, QueueCounts],
    "revoke": list[Found],
    "find": tuple[bool, Found | None],
    "scheduled": list[Scheduled],
    "dead": list[DeadLetter],
    "dead_letter": DeadLetter | None,
    "replay": int,
    "drop": int,
    "purge": int,
    "pause": None,
    "broadcast": None,
    "check": list[str],
    "capabilities": Capabilities,
    "get": dict[str, Record],
    "wait": list[Record],
    "forget": None,
    "check_results": list[str],
}
"""What each returns. ``find``: (can the broker tell?, where it is)."""
ANSWER_WITHIN = 30.0
"""Seconds after which a client gives a call up."""
WAIT_SLICE = 10.0
"""A longer ``wait`` is asked for again after this many seconds."""

Call: TypeAlias = Callable[[str, bytes], bytes]
"""``call(method, args) -> value``, both msgpack. Raises what the method raised, of `engine.errors`."""

_encode = msgspec.msgpack.Encoder().encode
_values = {method: msgspec.msgpack.Decoder(kind) for method, kind in VALUES.items()}


class SlotCall:
    """Calls from a child, over its end of its slot's outcome pair.

    Any thread of the child; one call at a time. An answer to an earlier child, or to a call that an interruption ended,
    is dropped. When the dispatcher dies the call waits for the next one, which finds the request in the socket.
    """

    def __init__(self, sock: socket.socket, spawn: int) -> None:
        self._sock = sock
        self._spawn = spawn
        self._number = 0
        self._lock = threading.Lock()

    def __call__(self, method: str, args: bytes) -> bytes:
        """Asks the dispatcher, and waits for its answer."""
        with self._lock:
            self._number += 1
            number = self._number
            wire.post(self._sock, wire.encode(wire.Request(self._spawn, number, method, args)))
            while True:
                data = wire.collect(self._sock)
                if not data:
                    raise BrokerUnavailable("the engine that ran this process is gone")
                reply = wire.decode(data)
                if isinstance(reply, wire.Reply) and (reply.spawn, reply.number) == (self._spawn, number):
                    return value_of(reply)


class ClientCall:
    """Calls from another process of the host, through the engine's control socket at ``path``.

    Any thread; one call at a time. Connects at the first call, and again after a connection was lost or the process
    forked. Raises BrokerUnavailable when no engine answers there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._sock: socket.socket | None = None
        self._pid = 0
        self._number = 0
        self._lock = threading.Lock()

    def __call__(self, method: str, args: bytes) -> bytes:
        """Asks the engine, and waits for its answer."""
        with self._lock:
            try:
                return self._ask(method, args)
            except (OSError, msgspec.DecodeError) as error:
                self._drop()
                raise BrokerUnavailable(f"the engine at {self._path} did not answer: {error}") from None
            except BaseException as error:
                # An interrupted call's answer would be taken for the next one's.
                if not isinstance(error, errors.EngineError):
                    self._drop()
                raise

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        self._drop()

    def _ask(self, method: str, args: bytes) -> bytes:
        sock = self._connected()
        self._number += 1
        sock.settimeout(ANSWER_WITHIN)
        wire.send(sock, wire.encode(wire.Request(0, self._number, method, args)))
        while data := wire.receive(sock):
            reply = wire.decode(data)
            if isinstance(reply, wire.Reply) and reply.number == self._number:
                return value_of(reply)
        raise ConnectionResetError("it hung up")

    def _connected(self) -> socket.socket:
        if self._sock is not None and self._pid == os.getpid():
            return self._sock
        self._drop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(ANSWER_WITHIN)
            sock.connect(self._path)
            sock.send(json.dumps({"verb": "relay"}).encode())
            answer = json.loads(sock.recv(65536) or b"{}")
        except (OSError, ValueError):
            sock.close()
            raise self._nobody() from None
        if not answer.get("ok"):
            sock.close()
            raise BrokerUnavailable(f"the engine at {self._path} refused: {answer.get('error', 'it is starting')}")
        self._sock, self._pid = sock, os.getpid()
        return sock

    def _nobody(self) -> BrokerUnavailable:
        name = os.path.basename(self._path).removesuffix(".sock")
        return BrokerUnavailable(
            f"the broker lives inside a running engine (memory://), and none called {name!r} is up: "
            "start it with `engine start`, or use sqlite:///engine.db"
        )

    def _drop(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def value_of(reply: wire.Reply) -> bytes:
    """Returns a reply's value, or raises the error that it names."""
    if reply.error is None:
        return reply.value
    kind = getattr(errors, reply.error, None)
    if isinstance(kind, type) and issubclass(kind, errors.EngineError):
        raise kind(reply.text)
    raise TransportError(f"{reply.error}: {reply.text}")


class RelayTransport(Transport):
    """A broker behind a `Call`. It cannot consume: that is the dispatcher's."""

    def __init__(self, call: Call) -> None:
        super().__init__("relay:", options={})
        self._call = call

    @cached_property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # of a class everywhere else
        """What the broker behind can do. Asked at the first use."""
        return cast(Capabilities, self._ask("capabilities"))

    def publish(self, envelopes: Sequence[Envelope], *, batch: Batch | None = None) -> None:
        """As `Transport.publish`."""
        self._ask("publish", list(envelopes), batch)

    def consume(self, queues: Sequence[str], worker: Worker) -> Consumer:
        """Refuses."""
        raise TransportError("only the dispatcher of an engine consumes")

    def counts(self, queues: Sequence[str] | None = None) -> Mapping[str, QueueCounts]:
        """As `Transport.counts`."""
        return cast("dict[str, QueueCounts]", self._ask("counts", None if queues is None else list(queues)))

    def revoke(self, ids: Sequence[str], until: float) -> Sequence[Found]:
        """As `Transport.revoke`."""
        return cast("list[Found]", self._ask("revoke", list(ids), until))

    def find(self, id: str) -> Found | CannotTell | None:
        """As `Transport.find`."""
        can_tell, found = self._ask("find", id)
        return cast("Found | None", found) if can_tell else CannotTell()

    def scheduled(self, limit: int = 100, queue: str | None = None) -> Sequence[Scheduled]:
        """As `Transport.scheduled`."""
        return cast("list[Scheduled]", self._ask("scheduled", limit, queue))

    def dead(self, limit: int = 100, queue: str | None = None) -> Sequence[DeadLetter]:
        """As `Transport.dead`."""
        return cast("list[DeadLetter]", self._ask("dead", limit, queue))

    def dead_letter(self, id: str) -> DeadLetter | None:
        """As `Transport.dead_letter`."""
        return cast("DeadLetter | None", self._ask("dead_letter", id))

    def replay(self, ids: Sequence[str]) -> int:
        """As `Transport.replay`."""
        return cast(int, self._ask("replay", list(ids)))

    def drop(self, ids: Sequence[str]) -> int:
        """As `Transport.drop`."""
        return cast(int, self._ask("drop", list(ids)))

    def purge(self, queue: str) -> int:
        """As `Transport.purge`."""
        return cast(int, self._ask("purge", queue))

    def pause(self, queue: str, paused: bool) -> None:
        """As `Transport.pause`."""
        self._ask("pause", queue, paused)

    def broadcast(self, command: bytes) -> None:
        """As `Transport.broadcast`."""
        self._ask("broadcast", command)

    def check(self) -> Sequence[str]:
        """As `Transport.check`."""
        return cast("list[str]", self._ask("check"))

    def close(self) -> None:
        """Closes the connection, if this one has its own."""
        if isinstance(self._call, ClientCall):
            self._call.close()

    def _ask(self, method: str, *args: object) -> Any:
        return _values[method].decode(self._call(method, _encode(args)))


class RelayResults(ResultBackend):
    """A result backend behind a `Call`. The dispatcher stores; here results are read."""

    in_process = True

    def __init__(self, call: Call) -> None:
        super().__init__("relay:", expires=0.0, options={})
        self._call = call

    def store(self, records: Sequence[Record]) -> None:
        """Refuses."""
        raise TransportError("records are stored by the dispatcher, with the outcome of their task")

    def get(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """As `ResultBackend.get`."""
        return cast("dict[str, Record]", self._ask("get", list(ids)))

    def wait(self, ids: Sequence[str], timeout: float) -> Iterator[Record]:
        """As `ResultBackend.wait`."""
        left = dict.fromkeys(ids)
        deadline = time.monotonic() + timeout
        while left:
            slice_ = max(0.0, min(deadline - time.monotonic(), WAIT_SLICE))
            for record in cast("list[Record]", self._ask("wait", list(left), slice_)):
                if record.id in left:
                    del left[record.id]
                    yield record
            if time.monotonic() >= deadline:
                return

    def forget(self, ids: Sequence[str]) -> None:
        """As `ResultBackend.forget`."""
        self._ask("forget", list(ids))

    def check(self) -> Sequence[str]:
        """As `ResultBackend.check`."""
        return cast("list[str]", self._ask("check_results"))

    def close(self) -> None:
        """Closes the connection, if this one has its own."""
        if isinstance(self._call, ClientCall):
            self._call.close()

    def _ask(self, method: str, *args: object) -> Any:
        return _values[method].decode(self._call(method, _encode(args)))


def connect_transport(path: str | os.PathLike[str]) -> RelayTransport:
    """Returns the broker inside the engine whose control socket is at ``path``. Connects now; raises BrokerUnavailable
    when no engine answers."""
    transport = RelayTransport(ClientCall(path))
    _ = transport.capabilities  # asks, and so connects
    return transport


def connect_results(path: str | os.PathLike[str]) -> RelayResults:
    """Returns the result backend inside the engine whose control socket is at ``path``. Connects at its first use."""
    return RelayResults(ClientCall(path))
