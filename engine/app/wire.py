"""The packets that the engine's own processes exchange over local sockets, and how they are sent.

A hand-off, and a connection to the control socket, keep packet borders: `send` and `receive`. A slot's pair is a stream
of frames, a head and a packet each, so that one system call can bring, or consume, many of them: `post` and `collect`,
and `engine.runtime.dispatcher.journal`.

Surprising facts this rests on:

- A SEQPACKET socket keeps packet borders and gives each packet to exactly one of its blocked readers.
- Both sides of a `socketpair` that crossed a fork share one open file description: ``setblocking`` in one process
  changes it in all. So nobody calls it here; who must not wait passes `NOW` (MSG_DONTWAIT).
- A packet must fit the sender's socket buffer. One above `INLINE_MAX` travels as a sealed memfd: the packet is then
  the one byte ``MEMFD`` and the descriptor. Peeking at such a packet makes a new descriptor each time.
- What one `send` gives to a local stream is queued in one piece, whole or not at all, up to 32 KiB; more is cut up. So
  a writer that is killed has sent a frame or nothing, and frames of several writers do not mix. A frame that would be
  larger travels as a memfd.
- A `recv` from a stream, also one that peeks, goes from piece to piece, and ends behind one with descriptors.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from engine.contract.message import Envelope
from engine.contract.results import Record
from engine.contract.transport import Settlement

INLINE_MAX = 120 * 1024
"""Largest packet, in bytes, that is sent inline."""
MEMFD = b"\xc1"
"""A byte that no msgpack value starts with."""
FRAME_MAX = 32 * 1024
"""Largest frame, in bytes, that is sent inline."""
BEGIN = b"\xc1pkt"
"""What a frame begins with. No packet does."""
HEAD = struct.Struct("<4sI")
"""A frame's head: ``BEGIN``, and how many bytes of a packet follow."""
BUFFER = INLINE_MAX + 4096
"""Size of a receive buffer: larger than any packet, as the peek offset counts the bytes that were copied. And smaller
than what `malloc` gets from the kernel each time: from 128 KiB on, a packet received may cost 14 us instead of 1."""
# Plain numbers, as `|` of two `socket.MsgFlag` is Python code that takes as long as the system call. Not every system
# has them all, and this module is imported on every system.
NOW = int(getattr(socket, "MSG_DONTWAIT", 0))
"""Do not wait. For ``flags`` of `send` and `receive`."""
PEEK = int(socket.MSG_PEEK)
"""Look at the packet, and leave it where it is."""
_QUIETLY = int(getattr(socket, "MSG_NOSIGNAL", 0))
_LOST = int(getattr(socket, "MSG_CTRUNC", 0))
_CLOSED_AT_EXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))


class Handout(msgspec.Struct, frozen=True, tag=1, array_like=True):
    """Dispatcher to any idle child: run this. ``body`` is the message as it came from the broker."""

    sequence: int
    """(dispatcher start << 40) + counter: never used twice in an incarnation."""
    sent_ns: int
    """CLOCK_BOOTTIME: a child returns what is older than ``dead_after / 2``, unstarted."""
    queue: str
    claim: bytes
    """Empty when it was acknowledged before (early ack)."""
    deliveries: int
    crashes: int
    body: bytes
    end: tuple[str, bytes] | None = None
    """Only run the hooks for this end (state, record body): the child that ran the task died."""


class Outcome(msgspec.Struct, frozen=True, tag=2, array_like=True):
    """Child to dispatcher: how a run ended. The commit point of the run. Enough to settle without any other memory."""

    sequence: int
    run: int
    """Its number in the slot (the board's RUN word)."""
    id: str
    task: str
    queue: str
    settlement: Settlement
    """With an empty claim (early ack) only its record is stored and its envelope published."""
    state: str
    retries: int
    deliveries: int
    runtime: float
    """Seconds."""
    started: bool = True
    reason: str | None = None
    publishes: list[Envelope] = []
    """What follows from the end (link, link_error): published before it is settled."""
    pid: int | None = None
    """Of the child, when it had begun."""


class Stored(msgspec.Struct, frozen=True, tag=3, array_like=True):
    """Child to dispatcher: a record written while the task runs (STARTED, `update_state`)."""

    sequence: int
    record: Record


class Request(msgspec.Struct, frozen=True, tag=4, array_like=True):
    """Child or client to dispatcher: call ``method`` of the broker or result backend. ``args`` is a msgpack array."""

    spawn: int
    """Of the child that asks: its answers are told from those to an earlier child in the same slot."""
    number: int
    method: str
    args: bytes


class Reply(msgspec.Struct, frozen=True, tag=5, array_like=True):
    """Dispatcher to child or client: the answer to (spawn, number). ``error`` names a class of `engine.errors`."""

    spawn: int
    number: int
    value: bytes
    error: str | None = None
    text: str = ""


class Death(msgspec.Struct, frozen=True, tag=6, array_like=True):
    """Supervisor to dispatcher, through the dead child's own socket, behind all its outcomes: what it was doing.

    ``sequence`` is 0 when it was waiting. ``aimed`` is False when the kill was meant for another task than the one
    that was running when it came: that one is released uncounted.
    """

    slot: int
    pid: int
    spawn: int
    run: int
    sequence: int
    id: str
    claim: bytes
    why: str
    """What the supervisor did, or "died": "time_limit", "memory_limit", "shutdown", "revoked", "died"."""
    cause: str
    """How the process ended, in words: "SIGKILL (out of memory)", "exit status 3"."""
    aimed: bool = True
    limit: float = 0.0
    """time_limit: seconds; memory_limit: bytes."""
    used: float = 0.0
    """Seconds run so far; memory_limit: bytes."""
    stack: str | None = None
    soft_raised: bool = False
    runtime: float = 0.0
    """Seconds from the start of the task in hand to the death, as the supervisor saw it."""


class TaskInfo(msgspec.Struct, frozen=True, array_like=True):
    """What the dispatcher knows of a registered task: its options, resolved with the worker's settings."""

    name: str
    aliases: list[str] = []
    acks_late: bool = False
    acks_on_failure_or_timeout: bool = True
    ignore_result: bool = False
    store_errors_even_if_ignored: bool = False
    track_started: bool = False
    rate_limit: float | None = None
    """Starts per second."""
    hooks: bool = False
    """Must hooks be run in another child when the child that ran it has died?"""


class Registry(msgspec.Struct, frozen=True, tag=7, array_like=True):
    """Child (``preload = false``) to dispatcher: the tasks of its generation."""

    generation: int
    """Of the template."""
    tasks: list[TaskInfo]


class Stack(msgspec.Struct, frozen=True, tag=8, array_like=True):
    """Child to dispatcher: where a task was when its soft limit was raised. Part of the report should it be killed at
    its hard limit."""

    sequence: int
    text: str


Packet: TypeAlias = Handout | Outcome | Stored | Request | Reply | Death | Registry | Stack

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Packet)


encode: Callable[[Packet], bytes] = _encoder.encode
"""Returns a packet's bytes."""


def decode(data: bytes | memoryview) -> Any:
    """Returns the packet in ``data``. Raises msgspec.DecodeError for anything else."""
    try:
        return _decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def send(sock: socket.socket, data: bytes, flags: int = 0) -> None:
    """Sends one packet, as a memfd if it is large. Raises BlockingIOError when ``flags`` hold `NOW` and there is no
    room, and OSError when the other side is gone."""
    if len(data) <= INLINE_MAX:
        sock.send(data, flags | _QUIETLY)
    else:
        send_with(sock, data, (), flags)


def send_with(sock: socket.socket, data: bytes, fds: Sequence[int], flags: int = 0) -> None:
    """Sends one packet with descriptors, as `send` does."""
    if len(data) <= INLINE_MAX:
        sock.sendmsg([data], _rights(fds), flags | _QUIETLY)
    else:
        _send_large(sock, MEMFD, data, fds, flags)


def post(sock: socket.socket, data: bytes, flags: int = 0) -> None:
    """Sends one packet over a slot's pair, as `send` does over others. Any thread, and any process that has it."""
    size = len(data)
    if size <= FRAME_MAX - HEAD.size:
        sock.send(HEAD.pack(BEGIN, size) + data, flags | _QUIETLY)
    else:
        _send_large(sock, HEAD.pack(BEGIN, len(MEMFD)) + MEMFD, data, (), flags)


def _send_large(sock: socket.socket, sign: bytes, data: bytes, fds: Sequence[int], flags: int) -> None:
    large = _memfd_of(data)
    try:
        sock.sendmsg([sign], _rights([large, *fds]), flags | _QUIETLY)
    finally:
        os.close(large)


def _rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def _memfd_of(data: bytes) -> int:
    import fcntl  # only here: `import engine` and sending work on systems that have none

    fd = os.memfd_create("engine-packet", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def receive(sock: socket.socket, flags: int = 0, most: int = BUFFER) -> bytes:
    """Receives (or, with `PEEK`, looks at) one packet, of at most so many bytes; b"" is the end. Raises BlockingIOError
    when ``flags`` hold `NOW` and nothing is there, and OSError for a large packet when no file can be opened any
    more."""
    data, ancillary, told, _ = sock.recvmsg(most, 64, flags | _CLOSED_AT_EXEC)
    # A descriptor that found no room is told of by the flag. Without it none was sent, whatever the packet says.
    if not ancillary and not told & _LOST:
        return data
    fds = descriptors(ancillary)
    try:
        return _read_memfd(fds)
    finally:
        for fd in fds:
            os.close(fd)


def receive_with(sock: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """Receives one packet and the descriptors that were sent with it, which the caller closes."""
    data, ancillary, _, _ = sock.recvmsg(BUFFER, 64, flags | _CLOSED_AT_EXEC)
    fds = descriptors(ancillary)
    if data != MEMFD:
        return data, fds
    try:
        return _read_memfd(fds), fds[1:]
    finally:
        for fd in fds[:1]:
            os.close(fd)


def collect(sock: socket.socket) -> bytes:
    """Receives one packet that was sent with `post`, waiting for it; b"" is the end of the stream. Raises as `receive`.
    One thread at a time. Whoever is interrupted here finds the packet again, or the next one."""
    data = sock.recv(BUFFER, PEEK)
    if not data:
        return b""
    if not data.startswith(BEGIN):
        raise OSError("what came over a slot's pair is no packet")
    _, size = HEAD.unpack_from(data)
    end = HEAD.size + int(size)
    if data[HEAD.size : end] == MEMFD:
        return receive(sock, most=end)
    return sock.recv(end)[HEAD.size :]


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Returns the descriptors that came with a packet; the caller closes them."""
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
            fds.extend(received)
    return fds


def _read_memfd(fds: Sequence[int]) -> bytes:
    if not fds:
        raise OSError("a packet lost its descriptor: too many open files?")
    size = os.fstat(fds[0]).st_size
    parts: list[bytes] = []
    while (done := sum(map(len, parts))) < size:
        part = os.pread(fds[0], size - done, done)
        if not part:
            raise OSError("a packet's memfd is shorter than it says")
        parts.append(part)
    return b"".join(parts)
