"""The transport contract: how messages get to a worker and how it says what became of them.

Claims, not visibility timeouts
    Every delivery is *claimed* at the broker by the worker (one incarnation of a supervisor: `Worker.id`). A claim
    holds while the worker lives, however long the task runs. Another worker takes claims over only when their owner
    is dead: on the same host when its lock file can be locked, elsewhere when its heartbeat has not moved for
    ``dead_after`` seconds on the observer's own monotonic clock.

Fencing
    ``settle`` has an effect only for a claim that is still held; otherwise it returns the claim as stale.

Lanes
    A lane is one thread at a time, and not always the same one. `Consumer.fetch`, ``renew``, ``reconcile``,
    ``takeover`` and ``commands`` are only ever called by the fetch lane, ``settle`` only by the settle lane, at the
    same time. The methods of `Transport` are a lane of their own: the publish lane in a worker, the caller's thread
    (behind a lock) in a client. Each lane has a broker connection of its own. It is never used by two threads at once,
    but must bear being passed from one to another (`sqlite3` needs ``check_same_thread=False`` for that).

Connecting
    At the first use, never in ``__init__`` or `Transport.consume`, which may run before a fork. After a fork the child
    makes objects of its own: those of its parent are neither used nor closed there.

Errors
    BrokerUnavailable
        Trying again may help: no connection, a lock that is held, a server that starts. The engine drops the consumer
        without ``close``, and makes a new one with backoff; a client tries again too.
    BrokerFull
        The broker refuses writes: its disk or memory is full. Nothing was written; fetching and settling go on.
    TransportError
        Trying again does not help: no permission, a damaged file, a message that the broker can not carry. Whatever
        else a client library raises must be translated into one of these.
    ConfigError
        The URL or an option is wrong (``__init__``), or the server must not be used as it is (``check``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from engine.contract.message import Batch, Envelope
from engine.contract.results import Record


class Capabilities(msgspec.Struct, frozen=True):
    """What a transport can do. The conformance suite fails a flag that does not tell the truth, in both directions; but
    for ``other_hosts``, and ``settles_retry_atomically`` where it says False or ``finds`` does: those are on trust."""

    delays: bool = True
    """Does the broker itself hold a message until its ``due``?"""
    prioritises: bool = True
    """Does a higher priority go first, across all queues of a consumer?"""
    publishes_once: bool = False
    """Is a batch that is repeated published once? A producer's numbers grow: one that is not greater than its last is a
    repetition. See `Batch`."""
    settles_retry_atomically: bool = False
    """Do the end of a delivery and its retry become visible in one step?"""
    keeps_claims: bool = False
    """Do claims survive the connection and the dispatcher that took them?"""
    stores_results: bool = False
    """Does ``settle`` store the settlements' records itself, with the rest, when the result backend is the same
    server?"""
    finds: bool = False
    """Does ``find`` know where a message is?"""
    lists_scheduled: bool = False
    """Can delayed messages be listed?"""
    revokes: bool = False
    """Does the broker record revocations?"""
    broadcasts: bool = False
    """Do commands reach every worker?"""
    durable: bool = False
    """Does a message survive the death of any process of the engine, and of its sender, once ``publish`` returned?
    (What the death of a broker's server does is for its operator to say.)"""
    other_hosts: bool = False
    """Can workers and clients on other hosts reach it?"""
    in_process: bool = False
    """Does it live in the process that opens it? Under ``engine start`` that is the dispatcher, and everybody else
    reaches it through the engine's control socket."""


class Worker(msgspec.Struct, frozen=True):
    """One incarnation of an engine: the owner of claims. Made anew at each ``engine start``."""

    id: str
    host: str
    boot_id: str
    """Of the host's kernel: another value means that every process of that incarnation is gone."""
    lock: str
    """Path of a file that the supervisor holds a ``flock`` on while it lives. It proves death only when it exists and
    can be locked; it must be opened without O_CREAT."""
    dead_after: float = 30.0
    """Seconds without a heartbeat after which a worker on another host counts as dead."""


class Delivery(msgspec.Struct, frozen=True):
    """A message in hand, claimed by this worker."""

    id: str
    """As the broker knows it; of a foreign message that has none, any name that tells it from others."""
    queue: str
    body: bytes
    claim: bytes
    """Opaque, unique to this delivery, at most 64 bytes."""
    deliveries: int = 1
    """1, and one more for each earlier delivery of this run that counted. This one is in it."""
    crashes: int = 0
    priority: int = 0
    revoked: bool = False
    gate: bool = False
    """May another run of it be going on? (After a lost connection, where the broker redelivers what still runs.)"""
    copied: bool = False
    """With ``gate``: is it there because another copy of it may be, and not because a connection was lost? (Where a
    give-back or a retry is a new message, and the old one ends behind it.)"""


Counts: TypeAlias = Literal["nothing", "delivery", "crash"]


class Ack(msgspec.Struct, frozen=True, tag=1, array_like=True):
    """The delivery is done with."""

    claim: bytes
    record: Record | None = None


class Again(msgspec.Struct, frozen=True, tag=2, array_like=True):
    """The delivery is done with and the task runs again: ``envelope`` (same id) takes its place. One atomic step where
    the broker can."""

    claim: bytes
    envelope: Envelope
    record: Record | None = None


class Release(msgspec.Struct, frozen=True, tag=3, array_like=True):
    """The message goes back to where it stood among those of its queue and priority: before all that came after it.
    With ``at``, a wall-clock time, it comes back then, and to the end of the line.

    ``counts``: "delivery" adds one to its deliveries, "crash" one to deliveries and crashes, "nothing" leaves both.
    """

    claim: bytes
    at: float | None = None
    counts: Counts = "nothing"
    record: Record | None = None


class Dead(msgspec.Struct, frozen=True, tag=4, array_like=True):
    """The message becomes a dead letter, kept with ``reason``: text of any length that UTF-8 can carry. ``crashed``:
    its last run ended by the death of its process, which the letter counts as one crash more."""

    claim: bytes
    reason: str
    record: Record | None = None
    crashed: bool = False


Settlement: TypeAlias = Ack | Again | Release | Dead


class Reconciled(msgspec.Struct, frozen=True):
    """What a comparison of claims showed."""

    lost: Sequence[bytes]
    """Claims that were said to be held, but are not this worker's (any more)."""
    held: Sequence[Delivery]
    """The deliveries behind the claims that are."""
    returned: int
    """How many were claimed but not held, and were given back."""


class TakenOver(msgspec.Struct, frozen=True):
    """Claims of one dead worker, released to their queues. One who comes too late, because another worker has taken
    them over, has nothing to tell: it leaves this out. (The engine passes over one without anything in it.)"""

    worker: str
    released: int
    dead: Sequence[DeadLetter]
    """Dead-lettered instead: too many crashes or deliveries. The caller writes their FAILURE records, so each is told
    of by one worker only: the one that removed it from the claims."""


class QueueCounts(msgspec.Struct, frozen=True):
    """How many messages of one queue are in which place."""

    ready: int = 0
    delayed: int = 0
    claimed: int = 0
    dead: int = 0
    paused: bool = False


class Scheduled(msgspec.Struct, frozen=True):
    """A delayed message."""

    id: str
    queue: str
    due: float
    body: bytes


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead letter. ``body`` may be cut to 64 KiB in listings, never in ``dead_letter``."""

    id: str
    queue: str
    reason: str
    died: float
    deliveries: int
    """As its last `Delivery` said."""
    crashes: int
    """All of them, also the one that was the end of it."""
    body: bytes


class Found(msgspec.Struct, frozen=True):
    """Where a message is."""

    id: str
    queue: str
    place: Literal["ready", "delayed", "claimed", "dead"]
    due: float | None = None
    body: bytes = b""


class CannotTell(msgspec.Struct, frozen=True):
    """The answer of a broker that cannot look a message up by its id."""


class Consumer(ABC):
    """A worker's end of the broker."""

    @abstractmethod
    def fetch(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """Claims up to ``limit`` messages: priority first across all queues, then round robin over the queues.

        Returns what is there at once; waits up to ``timeout`` s only while nothing is. With ``limit`` 0 it waits, and
        returns empty. Fetch lane.
        """

    @abstractmethod
    def wake(self) -> None:
        """Makes a waiting ``fetch`` return now. Any thread, also at the same time as anything else."""

    @abstractmethod
    def renew(self, started: Collection[bytes]) -> None:
        """Moves the heartbeat. ``started`` are the claims of all runs that have begun: if this worker dies unclean they
        count a crash. What was named once stays started until that claim ends: a set that only grows will do, but the
        mark belongs to the claim, and a message that is released loses it. Called every ``dead_after / 10`` s. Fetch
        lane."""

    @abstractmethod
    def reconcile(self, held: Collection[bytes]) -> Reconciled:
        """Compares this worker's claims at the broker with those it holds, and gives back what is claimed but not held,
        uncounted. Called at start, after a lost connection and after a late beat. Fetch lane."""

    @abstractmethod
    def takeover(self, max_crashes: int, max_deliveries: int) -> Sequence[TakenOver]:
        """Releases the claims of workers that are proven dead. Each counts a delivery, and a crash if it had started,
        and goes back to where it stood. It is dead-lettered instead, with a reason that starts with "crash limit" or
        "delivery limit", when its crashes, this one counted, are ``max_crashes`` or more, or when the delivery that was
        lost was its number ``max_deliveries`` or a later one. That letter counts this crash; its ``deliveries`` are
        those there were, the lost one being the last. Called every ``dead_after / 10`` s. Fetch lane."""

    @abstractmethod
    def commands(self) -> Sequence[bytes]:
        """Returns the commands broadcast since the last call; never waits. A waiting ``fetch`` returns early for one.
        The first consumer of a worker hears what is sent from then on. The next one, after a lost connection, should
        begin where that one ended: to hear a command twice does no harm, to miss one may. Fetch lane."""

    @abstractmethod
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[bytes]:
        """Carries out all settlements, in one round trip if it can, and returns the claims that were stale: not held
        any more, so nothing was done (nor any record stored). Idempotent. Where ``stores_results`` holds and the
        worker was told so, the records are stored in the same step. Settle lane."""

    @abstractmethod
    def close(self) -> None:
        """Says goodbye: gives back what is claimed, uncounted. Called once, after the last child has ended, when no
        other call is under way. A consumer whose connection was lost is dropped without this call."""


class Transport(ABC):
    """A broker, as a client of it sees it."""

    capabilities: ClassVar[Capabilities]
    options: ClassVar[Mapping[str, type]] = {}
    """The further keys that it takes from ``[broker]``, with their types (``float`` also takes durations)."""

    def __init__(self, url: str, *, options: Mapping[str, Any]) -> None:
        """Takes the URL and the other keys of ``[broker]``. Must not connect: that happens at the first use. Raises
        ConfigError for a URL or an option that it cannot read."""
        self.url = url

    @abstractmethod
    def publish(self, envelopes: Sequence[Envelope], *, batch: Batch | None = None) -> None:
        """Sends messages. When it returns they survive the death of any process (as far as ``durable`` says).

        While a message of an id is alive (not acknowledged, not dead), a second of the same id is dropped. Raises
        BrokerUnavailable or BrokerFull; then the same call may be repeated with the same ``batch``.
        """

    @abstractmethod
    def consume(self, queues: Sequence[str], worker: Worker) -> Consumer:
        """Returns the worker's end. Must not connect."""

    def share_results(self, backend: object) -> bool:
        """Tells that ``settle`` is to store records into ``backend``'s place. True if it will: the same server, and
        ``stores_results``. Called once, before ``consume``."""
        return False

    @abstractmethod
    def counts(self, queues: Sequence[str] | None = None) -> Mapping[str, QueueCounts]:
        """Returns the counts of the queues named, or of all that exist: those with messages or dead letters, and those
        that are only paused. A queue that is named is in the answer, whether it exists or not."""

    @abstractmethod
    def revoke(self, ids: Sequence[str], until: float) -> Sequence[Found]:
        """Records that these ids are not to run, until a wall-clock time: kept at the broker, also while no worker is
        up. What is found ready or delayed is removed and returned. Without ``revokes``: does nothing, returns ()."""

    @abstractmethod
    def find(self, id: str) -> Found | CannotTell | None:
        """Says where a message is; None: it is not there. Without ``finds``: CannotTell()."""

    @abstractmethod
    def scheduled(self, limit: int = 100, queue: str | None = None) -> Sequence[Scheduled]:
        """Returns delayed messages, soonest first. Without ``lists_scheduled``: ()."""

    @abstractmethod
    def dead(self, limit: int = 100, queue: str | None = None) -> Sequence[DeadLetter]:
        """Returns dead letters, latest first."""

    @abstractmethod
    def dead_letter(self, id: str) -> DeadLetter | None:
        """Returns one dead letter, whole."""

    @abstractmethod
    def replay(self, ids: Sequence[str]) -> int:
        """Puts dead letters back into their queues, crashes set to 0, deliveries going on; returns how many. One whose
        id is alive again stays a dead letter, where that can be known (``finds``), and is not counted."""

    @abstractmethod
    def drop(self, ids: Sequence[str]) -> int:
        """Deletes dead letters for good; returns how many."""

    @abstractmethod
    def purge(self, queue: str) -> int:
        """Deletes the ready and delayed messages of a queue (not the claimed ones); returns how many."""

    @abstractmethod
    def pause(self, queue: str, paused: bool) -> None:
        """Stops (or lets go on) the fetching from a queue, in all workers."""

    @abstractmethod
    def broadcast(self, command: bytes) -> None:
        """Sends a command (at most 64 KiB) to every worker that is up. Without ``broadcasts``: does nothing, and
        `Consumer.commands` returns ()."""

    def check(self) -> Sequence[str]:
        """Connects, and returns what an operator should know (a sentence each). Called by ``engine check`` and at boot.
        Raises ConfigError for a server that must not be used as it is."""
        self.counts(())
        return ()

    @abstractmethod
    def close(self) -> None:
        """Closes connections. May be called more than once, from any thread, and never raises."""
