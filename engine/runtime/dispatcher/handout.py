"""Runs in the dispatcher: the hand-off sockets, what is in them, and what waits to go in. Main lane only.

A message that came here is in exactly one of these places, until its run has ended or the caller has it:

- `_backlog`: not sent. It came from the broker, or was read back; it has its claim.
- `_acking`: early-acked, and its acknowledgement is under way, as a child is idle. It has its claim until then.
- `_ready`: not sent, and goes before the backlog. It has no claim: acknowledged already, or only hooks are to run.
- `inflight`, by sequence: its packet was sent. It lies in a hand-off socket, or a child has it.

How it comes in, moves, and leaves:

- in: `add` (`_backlog`), `add_hooks` (`_ready`), `adopt` (`inflight`), `add_first` (the front of what suits it).
- `fill`: `_backlog` or `_ready` to `inflight`; an early-acked one first from `_backlog` to `_acking`.
- `acknowledged`: `_acking` to `_ready`, or out if it was revoked meanwhile. `refused`: out.
- `take_back`, `retire`: what still lies in a socket, from `inflight` to the front of `_backlog` or `_ready`, in order.
- out: `take_all`, `drain`, `take_stale`, `drop_revoked` (it is the caller's), `forget` (of `_backlog`: its claim is
  gone).
- out of `inflight`: whoever sees the run's end, or finds that the packet was lost with a child, pops it.

Surprising facts this rests on:

- The kernel gives each packet to one idle child, in order. So a sequence that is lower than one that any child has
  begun is in the socket no more, and how many are still in it is a subtraction.
- The children's end is open here too: reading from it takes back what no child has taken. Never with
  ``setblocking``: the flag belongs to the open file description, which the children share.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from engine.app import wire
from engine.contract.message import Message
from engine.contract.transport import Delivery
from engine.runtime import control
from engine.runtime.dispatcher.crew import Crew
from engine.runtime.dispatcher.registry import Registry

SOCKET_MOST = 200
"""Most packets that are kept in the socket: what the kernel has room for, when they are small."""
STALE = 1.0
"""Seconds after which what no child has taken goes back to the broker."""


class Held:
    """A message in hand: claimed, or acknowledged early, and not ended."""

    __slots__ = ("acked", "acks_early", "came", "delivery", "end", "info", "message", "revoked", "sequence")

    def __init__(
        self, delivery: Delivery, message: Message, info: wire.TaskInfo | None, came: float, *, acked: bool = False
    ) -> None:
        self.delivery = delivery
        self.message = message
        self.info = info
        self.acks_early = info is not None and not info.acks_late
        """Is it to be acknowledged before it starts?"""
        self.came = came
        """Monotonic seconds."""
        self.acked = acked
        """Acknowledged before its start: ``delivery.claim`` means nothing any more."""
        self.end: tuple[str, bytes] | None = None
        """Only hooks are to run: (state, record body)."""
        self.revoked = False
        """Revoked while it was being acknowledged: it must not be handed out when it is."""
        self.sequence = 0
        """Of the packet, once it was sent."""

    @property
    def claim(self) -> bytes:
        """The claim; empty when there is none to settle."""
        return b"" if self.acked else self.delivery.claim

    @property
    def deliveries(self) -> int:
        """As `Delivery.deliveries`."""
        return self.delivery.deliveries

    @property
    def crashes(self) -> int:
        """As `Delivery.crashes`."""
        return self.delivery.crashes

    @property
    def fields(self) -> dict[str, str]:
        """What log lines say of the task."""
        return {"task_id": self.message.id, "task_name": self.message.task}

    @property
    def wants_early_ack(self) -> bool:
        """Must it be acknowledged before it may be handed out?"""
        return self.acks_early and not self.acked


@dataclass
class Pair:
    """One template generation's hand-off."""

    number: int
    handoff: socket.socket
    takeback: socket.socket
    registry: Registry | None
    """None: not known yet (``preload = false``)."""


class Handoff:
    """Gives messages to idle children, in order, through the newest generation that is not retired."""

    def __init__(self, crew: Crew, start: int, *, preload: bool, draining: bool = False) -> None:
        self._crew = crew
        self._preload = preload
        self.draining = draining
        """Is nothing handed out any more, as the worker is on its way down?"""
        self._counter = start << 40
        self._base = self._counter
        self._pairs: dict[int, Pair] = {}
        self._told: dict[int, Registry] = {}
        """Tasks of generations that do not take any yet."""
        self._ready: deque[Held] = deque()
        self._backlog: deque[Held] = deque()
        self._acking: set[Held] = set()
        self.inflight: dict[int, Held] = {}
        """By sequence: what was sent and has not ended. Other lanes may look things up."""
        self.paused = False
        """Nothing is handed out while claims are being compared with the broker."""

    @property
    def pair(self) -> Pair | None:
        """The generation that takes tasks now."""
        return self._pairs[max(self._pairs)] if self._pairs else None

    @property
    def registry(self) -> Registry | None:
        """The tasks of that generation, if they are known."""
        pair = self.pair
        return None if pair is None else pair.registry

    def add_generation(self, generation: control.Generation) -> None:
        """Takes a template generation, which gets all further tasks. Reads nothing back: at boot it is not known yet
        what lies in the sockets, and `read_leftovers` is to find it there."""
        known = self._preload or bool(generation.tasks)
        registry = Registry(generation.tasks) if known else self._told.pop(generation.number, None)
        self._pairs[generation.number] = Pair(generation.number, generation.handoff, generation.takeback, registry)

    def learn(self, number: int, tasks: list[wire.TaskInfo]) -> None:
        """Takes the tasks of a generation whose first child told them: before the generation takes tasks, or after."""
        if (pair := self._pairs.get(number)) is not None:
            pair.registry = Registry(tasks)
        else:
            self._told[number] = Registry(tasks)

    def retire(self, number: int) -> None:
        """Takes back what this generation was given, and lets its idle children leave."""
        pair = self._pairs.get(number)
        if pair is None:
            return
        self._requeue(self._read_back(pair))
        del self._pairs[number]
        pair.handoff.shutdown(socket.SHUT_WR)
        pair.handoff.close()
        pair.takeback.close()

    def drain(self) -> list[Held]:
        """Retires every generation, for good; returns everything that is unstarted: it is the caller's now."""
        self.draining = True
        taken = self.take_all()
        for number in list(self._pairs):
            self.retire(number)
        return taken

    def add(self, held: Iterable[Held]) -> None:
        """Takes messages to hand out."""
        self._backlog.extend(held)

    def add_hooks(self, held: Held, end: tuple[str, bytes]) -> None:
        """Takes a packet that only runs the hooks of a message for its ``end`` (state, record body): before all
        others, as it needs no claim and no room at the broker."""
        hooks = Held(held.delivery, held.message, held.info, time.monotonic(), acked=True)
        hooks.end = end
        self._ready.append(hooks)

    def add_first(self, held: Iterable[Held]) -> None:
        """Takes messages that were in a child's hands already, unstarted: they go before all others."""
        self._requeue(list(held))

    def in_socket(self) -> int:
        """Returns how many packets no child has taken yet."""
        return max(0, self._counter - max(self._base, self._crew.newest()))

    def unstarted(self) -> int:
        """Returns how many messages are in hand that no child has taken."""
        return len(self._backlog) + len(self._ready) + len(self._acking) + self.in_socket()

    @property
    def waits(self) -> bool:
        """Does the next message wait for a child to be idle, so that it can be acknowledged?"""
        queue = self._ready or self._backlog
        return bool(queue) and queue[0].wants_early_ack

    def fill(self, window: int) -> list[Held]:
        """Sends what there is room for, so that at most ``window`` packets lie in the socket. Returns what is to be
        acknowledged before it is sent: the caller sees to that, and calls `acknowledged` or `refused` for each."""
        pair = self.pair
        if self.paused or pair is None or pair.registry is None or not (self._ready or self._backlog):
            return []
        room = min(window, SOCKET_MOST) - self.in_socket()
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        early: list[Held] = []
        while room > 0 and (queue := self._ready or self._backlog):
            held = queue[0]
            if held.wants_early_ack:
                if len(self._acking) + self.in_socket() >= self._crew.idle():
                    break
                self._acking.add(held)
                early.append(held)
            elif not self._send(pair, held, boot_ns):
                break
            queue.popleft()
            room -= 1
        return early

    def acknowledged(self, held: Held) -> None:
        """Hears that an early-acked message was acknowledged: it goes first, unless it was revoked meanwhile."""
        self._acking.discard(held)
        held.acked = True
        if not held.revoked:
            self._ready.append(held)

    def refused(self, held: Held) -> None:
        """Hears that an early-acked message could not be acknowledged: it is another worker's."""
        self._acking.discard(held)

    def take_back(self) -> None:
        """Reads everything back that no child has taken; it is sent again, under new sequences, with the next fill."""
        for pair in self._pairs.values():
            self._requeue(self._read_back(pair))

    def take_all(self) -> list[Held]:
        """Takes back and returns everything that is unstarted: it is the caller's now."""
        self.take_back()
        taken = [*self._ready, *self._backlog]
        self._ready.clear()
        self._backlog.clear()
        return taken

    def take_stale(self, now: float) -> list[Held]:
        """Takes back and returns what no child has taken for a second."""
        if not self._is_stale(now - STALE):
            return []
        self.take_back()
        stale: list[Held] = []
        for queue in (self._ready, self._backlog):
            while queue and queue[0].came <= now - STALE and queue[0].end is None:
                stale.append(queue.popleft())
        return stale

    def forget(self, claims: set[bytes]) -> tuple[list[Held], list[Held]]:
        """Drops the unstarted messages of these claims; returns them, and those that had been started."""
        dropped = [held for held in self._backlog if held.claim and held.claim in claims]
        if dropped:
            self._backlog = deque(held for held in self._backlog if held.claim not in claims or not held.claim)
        return dropped, [held for held in self.inflight.values() if held.claim and held.claim in claims]

    def drop_revoked(self, ids: set[str]) -> list[Held]:
        """Takes the unstarted messages of these ids back and returns them: they are the caller's now. One that is being
        acknowledged is the caller's once it `acknowledged` it."""
        for held in self._acking:
            held.revoked = held.revoked or held.message.id in ids
        if not any(held.message.id in ids for held in (*self._backlog, *self._ready, *self.inflight.values())):
            return []
        self.take_back()
        dropped = [held for held in (*self._ready, *self._backlog) if held.message.id in ids and held.end is None]
        gone = set(dropped)
        self._ready = deque(held for held in self._ready if held not in gone)
        self._backlog = deque(held for held in self._backlog if held not in gone)
        return dropped

    def claims(self) -> set[bytes]:
        """Returns all claims in hand."""
        return {held.claim for held in self._all() if held.claim}

    def ids(self) -> set[str]:
        """Returns the ids of all tasks in hand."""
        return {held.message.id for held in self._all()}

    def adopt(self, held: Held, sequence: int) -> None:
        """Takes a run into the table that an earlier dispatcher sent."""
        held.sequence = sequence
        self.inflight[sequence] = held

    def read_leftovers(self) -> list[wire.Handout]:
        """Reads back what an earlier dispatcher sent and no child has taken."""
        return [packet for pair in self._pairs.values() for packet in _drain(pair.takeback)]

    def _send(self, pair: Pair, held: Held, boot_ns: int) -> bool:
        delivery = held.delivery
        sequence = self._counter + 1
        data = wire.encode(
            wire.Handout(
                sequence,
                boot_ns,
                delivery.queue,
                held.claim,
                delivery.deliveries,
                delivery.crashes,
                delivery.body,
                held.end,
            )
        )
        try:
            wire.send(pair.handoff, data, wire.NOW)
        except (BlockingIOError, BrokenPipeError):
            return False  # no room, or retired before this dispatcher was started: the next generation is on its way
        self._counter = held.sequence = sequence
        self.inflight[sequence] = held
        return True

    def _read_back(self, pair: Pair) -> list[Held]:
        taken: list[Held] = []
        for packet in _drain(pair.takeback):
            held = self.inflight.pop(packet.sequence, None)
            if held is not None:
                taken.append(held)
        if pair is self.pair:
            self._base = self._counter
        return taken

    def _requeue(self, taken: list[Held]) -> None:
        for held in reversed(taken):
            queue = self._ready if held.acked or held.end is not None else self._backlog
            queue.appendleft(held)

    def _all(self) -> Iterator[Held]:
        return chain(self._backlog, self._ready, self._acking, self.inflight.values())

    def _is_stale(self, since: float) -> bool:
        for queue in (self._ready, self._backlog):
            if queue and queue[0].came <= since and queue[0].end is None:
                return True
        first = self._counter - self.in_socket() + 1
        held = self.inflight.get(first)
        return held is not None and held.came <= since and held.end is None


def _drain(sock: socket.socket) -> list[wire.Handout]:
    packets: list[wire.Handout] = []
    while True:
        try:
            data = wire.receive(sock, wire.NOW)
        except BlockingIOError:
            return packets
        if not data:
            return packets
        packets.append(wire.decode(data))
