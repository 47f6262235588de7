"""What the transport suite's tests stand on: the fixtures, and a rig that makes workers, consumers and messages."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from engine.contract import (
    Ack,
    Capabilities,
    Consumer,
    Delivery,
    Envelope,
    Record,
    ResultBackend,
    Settlement,
    Transport,
    Worker,
)

T = TypeVar("T")
DEADLINE = 20.0
"""Seconds after which a state that a test waits for is taken to never come."""
SOON = 15.0
"""Seconds after which a call that waits for something is taken not to have noticed it."""
LONGEST_WAIT = SOON + 5
"""Seconds that such a call waits by itself: more than `SOON`, so that its own end is too late, and little more."""
QUEUE = "default"


def wait_for(condition: Callable[[], T], what: str, within: float = DEADLINE) -> T:
    """Waits until ``condition()`` is true, and returns what it returned."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {within:g} s for: {what}"
        time.sleep(0.005)
    return value


def boot_id() -> str:
    """Returns the id of the running kernel, as an engine tells it."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "unknown"


def success(id: str, body: bytes = b'{"state":"SUCCESS"}', *, deliveries: int = 1) -> Record:
    """Returns a final record."""
    return Record(id, "SUCCESS", 1.0, 0, deliveries, body, final=True)


class Waiting(Generic[T]):
    """A call that waits, in a thread of its own, for what the test does next."""

    def __init__(self, lane: futures.Executor, call: Callable[[], T], name: str) -> None:
        entered = threading.Event()
        self._name = name

        def run() -> T:
            entered.set()
            return call()

        self._future = lane.submit(run)
        assert entered.wait(DEADLINE), "no thread was started"

    @property
    def is_over(self) -> bool:
        """Has it returned?"""
        return self._future.done()

    def result(self, after: str) -> T:
        """Returns what it returned. Fails when it has not within `SOON` of what it was to return for."""
        futures.wait([self._future], timeout=SOON)
        assert self.is_over, f"{self._name} did not return within {SOON:g} s of {after}"
        return self._future.result()


class Rig:
    """Makes what a test needs around one transport, and closes it."""

    def __init__(self, transport: Transport, folder: Path, options: Mapping[str, Any]) -> None:
        self.transport = transport
        self.folder = folder
        self.options = options
        self.processes: list[OtherProcess] = []
        self._numbers = itertools.count(1)
        self._consumers: list[Consumer] = []
        self._transports: list[Transport] = []
        self._locks: list[int] = []

    @property
    def capabilities(self) -> Capabilities:
        """What the transport says it can do."""
        return self.transport.capabilities

    def agree(self, flag: str, found: bool, seen: str = "") -> None:
        """Fails unless the transport says of itself what was found. ``seen`` tells what that was."""
        said = getattr(self.capabilities, flag)
        advice = "it is there: say True" if found else "it is not there: say False, or mend it"
        told = f" ({seen})" if seen else ""
        assert said == found, f"Capabilities({flag}={said}) is not what was found: {advice}{told}"

    def another(self) -> Transport:
        """Returns another client of the same broker."""
        transport = type(self.transport)(self.transport.url, options=self.options)
        self._transports.append(transport)
        return transport

    def worker(self, *, dead_after: float = 30.0, locked: bool = True, **fields: Any) -> Worker:
        """Returns a new worker on this host, whose lock is held, or whose lock file does not exist."""
        id = f"worker-{os.getpid()}-{next(self._numbers)}-{os.urandom(4).hex()}"
        lock = self.folder / f"{id}.lock"
        if locked:
            fd = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._locks.append(fd)
        known = {"host": socket.gethostname(), "boot_id": boot_id(), "lock": str(lock), "dead_after": dead_after}
        return Worker(id=id, **{**known, **fields})

    def unlock_all(self) -> None:
        """Frees all locks of this process, as the death of the supervisors would."""
        while self._locks:
            os.close(self._locks.pop())

    def consumer(
        self, *queues: str, worker: Worker | None = None, transport: Transport | None = None, close: bool = True
    ) -> Consumer:
        """Returns a consumer that is up: it has reconciled, as at an engine's start."""
        consumer = (transport or self.transport).consume(queues or (QUEUE,), worker or self.worker())
        if close:
            self._consumers.append(consumer)
        consumer.reconcile(())
        consumer.fetch(0, 0)
        return consumer

    def publish(self, *ids: str, transport: Transport | None = None, **fields: Any) -> list[Envelope]:
        """Sends one message for each id, in one batch; its body names the id."""
        envelopes = [Envelope(id=id, body=json.dumps({"id": id}).encode(), **fields) for id in ids]
        (transport or self.transport).publish(envelopes)
        return envelopes

    @contextlib.contextmanager
    def fetching(self, consumer: Consumer, limit: int = 1) -> Iterator[Waiting[Sequence[Delivery]]]:
        """A fetch that waits. It is woken at the end, should it still wait."""
        with futures.ThreadPoolExecutor(1) as lane:
            waiting = Waiting(lane, lambda: consumer.fetch(limit, LONGEST_WAIT), "a waiting fetch")
            try:
                yield waiting
            finally:
                if not waiting.is_over:
                    consumer.wake()

    def take(self, consumer: Consumer, count: int) -> list[Delivery]:
        """Fetches until ``count`` messages are there."""
        taken: list[Delivery] = []
        deadline = time.monotonic() + DEADLINE
        while len(taken) < count:
            assert time.monotonic() < deadline, f"waited {DEADLINE:g} s for {count} messages, got {taken}"
            taken.extend(consumer.fetch(count - len(taken), 0.5))
        return taken

    def take_ids(self, consumer: Consumer, count: int) -> list[str]:
        """Fetches until ``count`` messages are there, and returns their ids in order."""
        return [delivery.id for delivery in self.take(consumer, count)]

    def take_one(self, consumer: Consumer) -> Delivery:
        """Fetches one message."""
        return self.take(consumer, 1)[0]

    def settle(self, consumer: Consumer, *settlements: Settlement) -> None:
        """Settles, none being stale."""
        assert list(consumer.settle(settlements)) == []

    def ack_all(self, consumer: Consumer) -> list[str]:
        """Fetches and acknowledges everything that is ready, and returns the ids."""
        ids: list[str] = []
        while taken := consumer.fetch(100, 0.05):
            self.settle(consumer, *(Ack(delivery.claim) for delivery in taken))
            ids.extend(delivery.id for delivery in taken)
        return ids

    def is_empty(self, consumer: Consumer) -> bool:
        """Says whether nothing is ready."""
        return not consumer.fetch(10, 0.05)

    def run(self, action: str, *arguments: str, worker: Worker | None = None) -> OtherProcess:
        """Starts another process at the same broker: see `engine.testing.transport_suite_process`."""
        process = OtherProcess(self.transport, self.options, worker or self.worker(locked=False), action, arguments)
        self.processes.append(process)
        return process

    def close(self) -> None:
        """Ends processes, closes consumers and clients: all of them, also when one raises."""
        with contextlib.ExitStack() as closing:
            closing.callback(self.unlock_all)
            for transport in self._transports:
                closing.callback(transport.close)
            for consumer in self._consumers:
                closing.callback(consumer.close)
            for process in self.processes:
                closing.callback(process.close)


class OtherProcess:
    """A process at the same broker: it says what it has done, a line each, and can be killed."""

    def __init__(
        self, transport: Transport, options: Mapping[str, Any], worker: Worker, action: str, arguments: Sequence[str]
    ) -> None:
        kind = type(transport)
        order = {
            "module": kind.__module__,
            "name": kind.__qualname__,
            "url": transport.url,
            "options": dict(options),
            "worker": {name: getattr(worker, name) for name in Worker.__struct_fields__},
            "action": action,
            "arguments": list(arguments),
        }
        self.worker = worker
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.testing.transport_suite_process", json.dumps(order)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            bufsize=0,  # what was read ahead could not be waited for
        )

    def hear(self) -> str:
        """Waits for its next line; "" is its end."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE)
        assert ready, f"waited {DEADLINE:g} s for another process to say something"
        return self.process.stdout.readline().decode().strip()

    def until(self, line: str) -> None:
        """Waits until it has said ``line``."""
        while (heard := self.hear()) != line:
            assert heard, f"the other process ended (status {self.process.wait()}) before it said {line!r}"

    def kill(self) -> None:
        """Kills it with SIGKILL, and reaps it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def rest(self) -> list[str]:
        """Returns the whole lines that it said and that nobody has heard yet. It must be dead."""
        assert self.process.stdout is not None
        return [line.decode().strip() for line in self.process.stdout if line.endswith(b"\n")]

    def close(self) -> None:
        """Kills it, and forgets what it said."""
        self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


class TransportKit:
    """The fixtures of the transport suite. Override ``transport``, ``results`` where `stores_results` is True, and
    ``unreachable`` to have the errors tested."""

    options: ClassVar[Mapping[str, Any]] = {}
    """The options that ``transport`` was made with: other clients are made with the same."""

    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        """The transport under test, at a broker of its own. Close it behind the ``yield``."""
        raise NotImplementedError("override the fixture `transport`")

    @pytest.fixture
    def results(self) -> ResultBackend | None:
        """A result backend at the same server, if the transport has one."""
        return None

    @pytest.fixture
    def unreachable(self) -> Transport | None:
        """A transport whose broker is not there: a port that nobody listens on, a file that is locked. Its errors are
        tested. None: they are not."""
        return None

    @pytest.fixture
    def rig(self, transport: Transport, tmp_path: Path) -> Iterator[Rig]:
        """The rig of one test."""
        rig = Rig(transport, tmp_path, self.options)
        yield rig
        rig.close()
