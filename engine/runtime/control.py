"""What supervisor, dispatcher and template tell each other: messages on a SEQPACKET pair of each service.

Descriptors travel beside a message (SCM_RIGHTS). The supervisor never waits on these sockets: what has no room stays in
its own queue until the socket is writable.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from engine.app import wire
from engine.app.settings import Settings
from engine.app.wire import TaskInfo
from engine.contract.transport import Worker
from engine.runtime.board import Board


class Ready(msgspec.Struct, frozen=True, tag=1, array_like=True):
    """Service to supervisor: started. The template says which tasks there are (none yet with ``preload = false``)."""

    tasks: list[TaskInfo] = []
    notes: list[str] = []
    """Sentences for the log: warnings found at start."""


class Failed(msgspec.Struct, frozen=True, tag=2, array_like=True):
    """Service to supervisor: could not start, and why, in one readable line. It exits with ``status``."""

    status: int
    line: str


class Spawn(msgspec.Struct, frozen=True, tag=3, array_like=True):
    """Supervisor to template: fork a child for this slot."""

    slot: int
    spawn: int
    """Counts all children of this incarnation."""


class Spawned(msgspec.Struct, frozen=True, tag=4, array_like=True):
    """Template's middle process to supervisor: the child's pid. The supervisor answers by writing the slot's OWNER."""

    slot: int
    spawn: int
    pid: int


class AddGeneration(msgspec.Struct, frozen=True, tag=5, array_like=True):
    """Supervisor to dispatcher, with both ends of the hand-off pair (the dispatcher's, then the children's): a template
    generation whose children now take tasks. Tasks go to the newest generation that has not been retired."""

    generation: int
    tasks: list[TaskInfo]


class RetireGeneration(msgspec.Struct, frozen=True, tag=6, array_like=True):
    """Supervisor to dispatcher: read its queued packets back (they go to the newest generation), then
    ``shutdown(SHUT_WR)``, so that its idle children see the end of the stream and leave."""

    generation: int


class Tasks(msgspec.Struct, frozen=True, tag=7, array_like=True):
    """Dispatcher to supervisor (``preload = false``): the tasks of a generation, as its first child told."""

    generation: int
    tasks: list[TaskInfo]


class Drain(msgspec.Struct, frozen=True, tag=8, array_like=True):
    """Supervisor to dispatcher: fetch no more, return what is unstarted, retire all generations; go on settling."""


class Finish(msgspec.Struct, frozen=True, tag=9, array_like=True):
    """Supervisor to dispatcher, when the last child is gone: settle what is left, close the consumer, exit 0."""


class Client(msgspec.Struct, frozen=True, tag=10, array_like=True):
    """Supervisor to dispatcher, with a connected SEQPACKET socket: a client that speaks the relay protocol."""


class Reconfigure(msgspec.Struct, frozen=True, tag=11, array_like=True):
    """Supervisor to dispatcher: the settings after a reload (URLs are unchanged)."""

    settings: bytes
    """msgpack of `Settings`."""


class Interrupt(msgspec.Struct, frozen=True, tag=12, array_like=True):
    """Dispatcher to supervisor: raise ``Interrupted("revoked")`` in the task that this slot runs, and kill its child if
    that does not end it."""

    slot: int
    run: int
    """Its number in the slot (the board's RUN word): another run is left alone."""


Control: TypeAlias = (
    Ready
    | Failed
    | Spawn
    | Spawned
    | AddGeneration
    | RetireGeneration
    | Tasks
    | Drain
    | Finish
    | Client
    | Reconfigure
    | Interrupt
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Control)


def tell(sock: socket.socket, message: Control, fds: Sequence[int] = (), flags: int = 0) -> None:
    """Sends one message, with these descriptors. Raises BlockingIOError with MSG_DONTWAIT, OSError when the other side
    is gone."""
    wire.send_with(sock, _encoder.encode(message), fds, flags)


def hear(sock: socket.socket, flags: int = 0) -> tuple[Any, list[int]] | None:
    """Receives one message and the descriptors that came with it, which the caller closes; None at the end of the
    stream (the other side died). Raises BlockingIOError with MSG_DONTWAIT when nothing is there."""
    data, fds = wire.receive_with(sock, flags)
    if not data:
        return None
    return _decoder.decode(data), fds


@dataclass(frozen=True)
class Generation:
    """One template generation, as a dispatcher needs it."""

    number: int
    handoff: socket.socket
    """The dispatcher's end of its hand-off pair."""
    tasks: list[TaskInfo]
    takeback: socket.socket
    """The children's end, which the dispatcher reads unstarted packets back from (always with MSG_DONTWAIT)."""


@dataclass(frozen=True)
class Wiring:
    """All that the dispatcher is born with. The sockets are inherited over the fork; it owns its copies."""

    settings: Settings
    worker: Worker
    start: int
    """1 for the first dispatcher of this incarnation; one more for each that replaces a dead one."""
    board: Board
    control: socket.socket
    outcomes: list[socket.socket]
    """The dispatcher's end of each slot's outcome pair."""
    generations: list[Generation] = field(default_factory=list)
    draining: bool = False
