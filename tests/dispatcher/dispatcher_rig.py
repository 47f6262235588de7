"""A real dispatcher in a process of its own, with the test as its supervisor and its children.

The test holds the board and the other ends of all sockets, and the broker lives in the test's process
(`served_broker`), so every step can be seen and every fault be made.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import socket
import struct
import termios
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import served_broker
from served_broker import Served

from engine.app import wire
from engine.app.settings import BrokerSection, PluginsSection, ResultsSection, Settings, WorkerSection
from engine.contract import Envelope, Message, Record, Settlement, Worker
from engine.contract.results import SUCCESS, Body
from engine.contract.transport import Ack
from engine.runtime import board as words
from engine.runtime import control
from engine.runtime.board import Board
from engine.runtime.dispatcher import dispatcher
from engine.runtime.log import formatter

T = TypeVar("T")
DEADLINE = 10.0
NOOP = wire.TaskInfo("t.noop", ["t.old"], acks_late=True)
EARLY = wire.TaskInfo("t.early", acks_late=False)
HOOKED = wire.TaskInfo("t.hooked", acks_late=True, hooks=True)
SLOW = wire.TaskInfo("t.rated", acks_late=True, rate_limit=1 / 3600)
TASKS = [NOOP, EARLY, HOOKED, SLOW]


def wait_for(condition: Callable[[], T], what: str, timeout: float = DEADLINE) -> T:
    """Waits until ``condition()`` is true, and returns its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout:g} s for: {what}"
        time.sleep(0.002)


class Child:
    """A child, played by the test: its slot on the board, its end of the outcome pair."""

    def __init__(self, rig: Rig, index: int) -> None:
        self.slot = rig.board.slot(index)
        self.link = rig.pairs[index][1]
        self._rig = rig
        self._number = 0

    def ready(self) -> None:
        """Waits for a task, by the board."""
        self.slot.wait()

    def take(self, timeout: float = DEADLINE) -> wire.Handout:
        """Takes the next packet and begins it."""
        packet = self._rig.take(timeout)
        assert packet is not None, "nothing was handed out"
        self.begin(packet)
        return packet

    def begin(self, packet: wire.Handout) -> None:
        """Writes a run on the board."""
        task_id = Message.decode(packet.body).id
        self.slot.begin(packet.sequence, packet.claim, task_id.encode(), 0)

    def end(self, packet: wire.Handout, settlement: Settlement | None = None, **fields: Any) -> None:
        """Reports an outcome, and waits for the next task."""
        message = Message.decode(packet.body)
        values = {
            "sequence": packet.sequence,
            "run": self.slot[words.RUN],
            "id": message.id,
            "task": message.task,
            "queue": packet.queue,
            "settlement": settlement or Ack(packet.claim, success(message, packet)),
            "state": SUCCESS,
            "retries": message.retries,
            "deliveries": packet.deliveries,
            "runtime": 0.001,
        }
        wire.post(self.link, wire.encode(wire.Outcome(**{**values, **fields})))
        self.slot.clear_deadlines()
        self.slot.wait()

    def die(self, packet: wire.Handout | None, cause: str = "SIGKILL", why: str = "died", **fields: Any) -> None:
        """Dies: the supervisor writes it into the slot's socket, then frees the slot."""
        message = Message.decode(packet.body) if packet else None
        values = {
            "slot": self.slot.index,
            "pid": 4711,
            "spawn": 1,
            "run": self.slot[words.RUN],
            "sequence": packet.sequence if packet else 0,
            "id": message.id if message else "",
            "claim": packet.claim if packet else b"",
            "why": why,
            "cause": cause,
        }
        wire.post(self.link, wire.encode(wire.Death(**{**values, **fields})))
        self.slot.reset()

    def ask(self, method: str, *args: Any, spawn: int = 1) -> None:
        """Sends a request."""
        self._number += 1
        packed = msgspec.msgpack.encode(args)
        wire.post(self.link, wire.encode(wire.Request(spawn, self._number, method, packed)))

    def answer(self) -> wire.Reply:
        """Waits for the reply."""
        assert select.select([self.link], [], [], DEADLINE)[0], "no reply came"
        reply = wire.decode(wire.collect(self.link))
        assert isinstance(reply, wire.Reply)
        return reply


class Rig:
    """Supervisor, children, and a broker."""

    def __init__(
        self, folder: Path, *, slots: int = 2, tasks: list[wire.TaskInfo] | None = None, **worker: Any
    ) -> None:
        self.folder = folder
        self.served = Served(folder, shared=worker.pop("shared", True))
        self.slots = slots
        self.tasks = TASKS if tasks is None else tasks
        worker.setdefault("dead_after", 3.0)
        self.settings = Settings(
            broker=BrokerSection(url=worker.pop("broker", self.served.url)),
            results=ResultsSection(url=worker.pop("results", self.served.url)),
            worker=WorkerSection(concurrency=slots, **worker),
            plugins=PluginsSection(load=[served_broker.__file__]),
        )
        lock = folder / "worker.lock"
        lock.touch()
        self._lock = open(lock)  # noqa: SIM115 - held while the rig lives
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.worker = Worker("w1", "host", "boot", str(lock), self.settings.worker.dead_after)
        self.board = Board(slots)
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(slots)]
        self.outlet, self.inlet = _pair()
        self.generations = [(1, self.outlet, self.inlet)]
        self.control: socket.socket | None = None
        self.children = [Child(self, index) for index in range(slots)]
        self.starts = 0
        self.pid = 0
        self.log_path = folder / "dispatcher.log"

    # The dispatcher.

    def start(self, *, draining: bool = False, ready: bool = True) -> Rig:
        """Starts a dispatcher, the first or one that replaces a dead one."""
        self.starts += 1
        ours, theirs = _pair()
        wiring = control.Wiring(
            settings=self.settings,
            worker=self.worker,
            start=self.starts,
            board=self.board,
            control=theirs,
            outcomes=[ours for ours, _ in self.pairs],
            generations=[control.Generation(n, out, self.tasks, back) for n, out, back in self.generations],
            draining=draining,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the broker's threads are not needed in the fork
            self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            self._become_dispatcher(wiring)
        theirs.close()
        if self.control is not None:
            self.control.close()
        self.control = ours
        if ready:
            assert isinstance(self.hear(), control.Ready), self.log
            for child in self.children:
                if child.slot[words.STATE] == words.EMPTY:
                    child.ready()
        return self

    def kill(self) -> None:
        """Kills the dispatcher: it gets no chance to say anything."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0

    def finish(self, timeout: float = DEADLINE) -> int:
        """Drains and finishes; returns the exit status."""
        self.tell(control.Drain())
        self.tell(control.Finish())
        return self.exit_status(timeout)

    def exit_status(self, timeout: float = DEADLINE) -> int:
        """Waits for the dispatcher's end."""
        _, status = wait_for(lambda: _ended(self.pid), "the dispatcher to exit", timeout)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Ends what is left."""
        if self.pid:
            self.kill()
        self.served.close()
        self._lock.close()
        ends = [end for pair in self.pairs for end in pair] + [end for _, *pair in self.generations for end in pair]
        for sock in [*ends, self.inlet, self.control]:
            if sock is not None:
                sock.close()

    def tell(self, message: control.Control, *fds: int) -> None:
        """Speaks as the supervisor."""
        assert self.control is not None
        control.tell(self.control, message, list(fds))

    def hear(self) -> Any:
        """Hears what the dispatcher tells its supervisor."""
        assert self.control is not None
        assert select.select([self.control], [], [], DEADLINE)[0], f"the dispatcher says nothing:\n{self.log}"
        heard = control.hear(self.control)
        assert heard is not None, f"the dispatcher died:\n{self.log}"
        return heard[0]

    @property
    def log(self) -> str:
        """What the dispatchers logged."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def logged(self, text: str) -> None:
        """Waits until the log has this text."""
        wait_for(lambda: text in self.log, f"{text!r} in the log")

    def compared(self, times: int) -> None:
        """Waits until claims were compared with the broker so often: then leftovers have been read back."""
        wait_for(lambda: len(self.served.called("reconcile")) >= times, "claims to be compared")

    # The hand-off.

    def take(self, timeout: float = DEADLINE) -> wire.Handout | None:
        """Takes a packet, as any idle child would; None if none comes in time."""
        if not select.select([self.inlet], [], [], timeout)[0]:
            return None
        try:
            packet = wire.decode(wire.receive(self.inlet, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return self.take(timeout)  # the dispatcher was quicker, and read it back
        assert isinstance(packet, wire.Handout)
        return packet

    def add_pair(self, generation: int) -> socket.socket:
        """Gives the next dispatcher another generation; returns its children's end."""
        outlet, inlet = _pair()
        self.generations.append((generation, outlet, inlet))
        return inlet

    def unsettled_bytes(self, slot: int = 0) -> int:
        """Returns how much lies in a slot's outcome socket, not consumed."""
        return pending(self.pairs[slot][0])

    # The broker.

    def publish(self, *messages: Message) -> None:
        """Sends messages, as a client would."""
        self.served.transport.publish([message.envelope() for message in messages])

    def publish_raw(self, id: str, body: bytes, **fields: Any) -> None:
        """Sends what is no message."""
        self.served.transport.publish([Envelope(id, body, **fields)])

    def place(self, id: str) -> str | None:
        """Says where a message is."""
        found = self.served.transport.find(id)
        return None if found is None else found.place

    def record(self, id: str) -> Record | None:
        """Returns what is recorded."""
        return self.served.results.get([id]).get(id)

    def state(self, id: str) -> str | None:
        """Returns the state that is recorded."""
        record = self.record(id)
        return None if record is None else record.state

    def wait_state(self, id: str, state: str) -> Record:
        """Waits until a record has this state."""
        wait_for(lambda: self.state(id) == state, f"{id} to be {state}, which is {self.state(id)}\n{self.log}")
        record = self.record(id)
        assert record is not None
        return record

    def wait_place(self, id: str, place: str | None) -> None:
        """Waits until a message is there."""
        wait_for(lambda: self.place(id) == place, f"{id} to be {place}, not {self.place(id)}")

    def _become_dispatcher(self, wiring: control.Wiring) -> None:
        status = 70
        try:
            handler = logging.FileHandler(self.log_path)
            handler.setFormatter(formatter("dispatcher", as_json=False))
            root = logging.getLogger()
            root.handlers[:] = [handler]
            root.setLevel("INFO")
            if self.control is not None:
                self.control.close()
            status = dispatcher.main(wiring)
        except BaseException:  # noqa: BLE001 - the stack above belongs to the test
            with open(self.log_path, "a") as file:
                traceback.print_exc(file=file)
        finally:
            os._exit(status)


def message(id: str, task: str = "t.noop", **fields: Any) -> Message:
    """Returns a message."""
    return Message(version=1, id=id, task=task, sent=fields.pop("sent", 1000.0), **fields)


def message_id(packet: wire.Handout) -> str:
    """Returns the id of the task in a packet."""
    return Message.decode(packet.body).id


def success(message: Message, packet: wire.Handout) -> Record:
    """Returns the record of a run that returned None."""
    body = msgspec.json.encode(Body(SUCCESS, message.task, 1.0))
    return Record(message.id, SUCCESS, message.sent, message.retries, packet.deliveries, body, final=True)


def body_of(record: Record) -> Body:
    """Returns a record's body."""
    return msgspec.json.decode(record.body, type=Body)


def pending(sock: socket.socket) -> int:
    """Returns how many bytes lie in a socket."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0" * 4))[0])


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _ended(pid: int) -> tuple[int, int] | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return (found, status) if found else None
