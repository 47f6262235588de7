"""``RabbitTransport``: RabbitMQ as a client sees it."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pika import exceptions

from engine.contract import (
    Batch,
    CannotTell,
    Capabilities,
    Consumer,
    DeadLetter,
    Envelope,
    Found,
    QueueCounts,
    Scheduled,
    Transport,
    Worker,
)
from engine.errors import ConfigError
from engine_rabbitmq import names
from engine_rabbitmq.address import TLS, Address
from engine_rabbitmq.catalogue import Catalogue, Order, QueueFact
from engine_rabbitmq.channel import Channel
from engine_rabbitmq.confirms import Publication
from engine_rabbitmq.connection import Connection
from engine_rabbitmq.consumer import RabbitConsumer
from engine_rabbitmq.dead_letters import DeadLetters
from engine_rabbitmq.failures import Refused
from engine_rabbitmq.messages import outgoing, revived
from engine_rabbitmq.publisher import Publisher
from engine_rabbitmq.results import SEND_TIMES
from engine_rabbitmq.session import Session
from engine_rabbitmq.topology import Topology, server_version

OLDEST = (3, 10)
QUEUE_TYPES = ("quorum", "classic")
_PRODUCERS = 1000
_IDS = 1000
_MOST_COMMAND = 64 * 1024


class RabbitTransport(Transport):
    """The broker behind ``amqp://`` and ``amqps://``. Its methods are called by one thread at a time, its consumers'
    by their lanes."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        delays=True,
        prioritises=True,
        publishes_once=False,
        settles_retry_atomically=False,
        keeps_claims=False,
        stores_results=False,
        finds=False,
        lists_scheduled=False,
        revokes=True,
        broadcasts=True,
        durable=True,
        other_hosts=True,
    )
    options: ClassVar[Mapping[str, type]] = {
        **TLS,
        "queue_type": str,
        "heartbeat": float,
        "consumer_timeout": float,
    }

    def __init__(self, url: str, *, options: Mapping[str, Any]) -> None:
        super().__init__(url, options=options)
        self._address = Address(url, options)
        self._type = str(options.get("queue_type", "quorum"))
        if self._type not in QUEUE_TYPES:
            raise ConfigError(f'[broker] queue_type = "{self._type}": write "quorum" or "classic"')
        self._consumer_timeout: float | None = options.get("consumer_timeout")
        self._catalogue = Catalogue()
        self._publisher = Publisher(self._address, self._topology, self._catalogue)
        self._sessions: dict[str, Session] = {}
        self._opening = threading.Lock()
        self._failed: OrderedDict[str, tuple[int, Publication]] = OrderedDict()
        self._pid = os.getpid()

    def publish(self, envelopes: Sequence[Envelope], *, batch: Batch | None = None) -> None:
        """See `Transport.publish`. A repeated batch goes on where the attempt before it failed."""
        SEND_TIMES.note(envelope.id for envelope in envelopes)
        before = self._failed.pop(batch.producer, None) if batch is not None else None
        if before is not None and batch is not None and before[0] == batch.number:
            publication = before[1]
        else:
            now = time.time()
            publication = Publication([outgoing(envelope, envelope.due, now) for envelope in envelopes])
        try:
            if envelopes:
                self._publisher.send(publication)
        except BaseException:
            if batch is not None:
                self._failed[batch.producer] = (batch.number, publication)
                while len(self._failed) > _PRODUCERS:
                    self._failed.popitem(last=False)
            raise

    def consume(self, queues: Sequence[str], worker: Worker) -> Consumer:
        """See `Transport.consume`."""
        for queue in queues:
            names.place(queue, 0)
        return RabbitConsumer(lambda: self._session(tuple(queues), worker), self._publisher)

    def counts(self, queues: Sequence[str] | None = None) -> Mapping[str, QueueCounts]:
        """See `Transport.counts`. Of what is claimed it knows this process's part; what is delayed lies in the ladder,
        uncounted."""
        link = self._publisher.operator_link()
        wanted = list(queues) if queues is not None else self._catalogue.queues()
        sizes = _sizes(link.connection, [place for queue in wanted for place in self._places(queue)])
        waiting: dict[str, int] = {}
        held: dict[str, int] = {}
        for session in self._living():
            for into, counts in zip((waiting, held), session.counts(), strict=True):
                for queue, count in counts.items():
                    into[queue] = into.get(queue, 0) + count
        return {queue: self._counts(queue, sizes, waiting.get(queue, 0), held.get(queue, 0)) for queue in wanted}

    def revoke(self, ids: Sequence[str], until: float) -> Sequence[Found]:
        """See `Transport.revoke`. Nothing is taken out: it is met when it comes."""
        if ids:
            self._publisher.order([Order(list(ids[n : n + _IDS]), until) for n in range(0, len(ids), _IDS)])
            self._catalogue.revoke(ids, until)
        return ()

    def find(self, id: str) -> Found | CannotTell | None:
        """Cannot tell: RabbitMQ does not look messages up."""
        return CannotTell()

    def scheduled(self, limit: int = 100, queue: str | None = None) -> Sequence[Scheduled]:
        """Returns nothing: what lies in the ladder cannot be listed."""
        return ()

    def dead(self, limit: int = 100, queue: str | None = None) -> Sequence[DeadLetter]:
        """See `Transport.dead`. All dead letters are read for it."""
        return self._dead_letters(queue).latest(limit)

    def dead_letter(self, id: str) -> DeadLetter | None:
        """See `Transport.dead_letter`. All dead letters are read for it."""
        return self._dead_letters().find(id)

    def replay(self, ids: Sequence[str]) -> int:
        """See `Transport.replay`. All dead letters are read for it."""
        now = time.time()
        return self._dead_letters().take(
            ids, lambda entries: self._publisher.publish([revived(one, now) for one in entries])
        )

    def drop(self, ids: Sequence[str]) -> int:
        """See `Transport.drop`. All dead letters are read for it."""
        return self._dead_letters().take(ids, lambda entries: None)

    def purge(self, queue: str) -> int:
        """See `Transport.purge`. What is delayed is dropped when it is due, and not counted here."""
        link = self._publisher.operator_link()
        if self._catalogue.queue(queue) is None:
            return 0
        self._publisher.tell(QueueFact(queue, purged=time.time()))
        count = sum(session.purge(queue) for session in self._living())
        places = [place for place in self._places(queue) if not place.endswith(".dead")]
        return count + sum(_each(link.connection, "queue_purge", places))

    def pause(self, queue: str, paused: bool) -> None:
        """See `Transport.pause`."""
        names.place(queue, 0)
        self._publisher.operator_link()
        self._publisher.tell(QueueFact(queue, paused=paused))
        for session in self._living():
            session.look_again()

    def broadcast(self, command: bytes) -> None:
        """See `Transport.broadcast`."""
        self._publisher.order([Order(command=command[:_MOST_COMMAND], at=time.time())])

    def check(self) -> Sequence[str]:
        """See `Transport.check`."""
        try:
            link = self._publisher.operator_link()
        except Refused as error:
            raise ConfigError(str(error)) from error
        version = server_version(link.connection)
        if version and version < OLDEST:
            shown = ".".join(map(str, version))
            raise ConfigError(f"{self._address.place}: RabbitMQ {shown} is too old: 3.10 or later is needed")
        return [*link.topology.notes, *self._timeout_notes(version)]

    def close(self) -> None:
        """See `Transport.close`."""
        if self._pid != os.getpid():
            return
        for session in list(self._sessions.values()):
            session.connection.close()
        self._sessions.clear()
        self._publisher.close()

    def _topology(self, connection: Connection) -> Topology:
        return Topology(connection, self._type, self._consumer_timeout)

    def _session(self, queues: tuple[str, ...], worker: Worker) -> Session:
        """Returns the worker's connection: one for all of its consumers, as claims belong to it."""
        with self._opening:
            session = self._sessions.get(worker.id)
            if session is None or session.connection.error is not None:
                if session is not None:
                    session.connection.close()
                connection = Connection(self._address, "consumer")
                session = Session(connection, self._topology(connection), self._publisher, queues, _came(worker))
                session.open()
                self._sessions[worker.id] = session
            else:
                session.use(queues)
            return session

    def _living(self) -> list[Session]:
        return [session for session in list(self._sessions.values()) if session.connection.error is None]

    def _dead_letters(self, queue: str | None = None) -> DeadLetters:
        link = self._publisher.operator_link()
        queues = self._catalogue.queues() if queue is None else [queue] if self._catalogue.queue(queue) else []
        return DeadLetters(link.connection, queues, lost=queue is None)

    def _places(self, queue: str) -> list[str]:
        known = self._catalogue.queue(queue)
        if known is None:
            return []
        return [names.place(queue, level) for level in (*sorted(known.levels), names.FRONT, names.DEAD)]

    def _counts(self, queue: str, sizes: Mapping[str, int], waiting: int, held: int) -> QueueCounts:
        known = self._catalogue.queue(queue)
        if known is None:
            return QueueCounts()
        *ready, dead = [sizes.get(place, 0) for place in self._places(queue)]
        return QueueCounts(sum(ready) + waiting, 0, held, dead, known.paused)

    def _timeout_notes(self, version: tuple[int, ...]) -> list[str]:
        if version >= (3, 12) or self._consumer_timeout is not None:
            return []
        return [
            "RabbitMQ takes a message back that was held for its consumer_timeout (30 minutes, if rabbitmq.conf does "
            "not say otherwise), also while its task runs: set consumer_timeout in rabbitmq.conf to more milliseconds "
            "than your longest task takes, and say so here with consumer_timeout under [broker]"
        ]


def _came(worker: Worker) -> float:
    """Returns when a worker came, which is when its lock was made; now, where that cannot be seen."""
    try:
        return os.stat(worker.lock).st_mtime
    except OSError:
        return time.time()


def _sizes(connection: Connection, places: Sequence[str]) -> dict[str, int]:
    counts = _each(connection, "queue_declare", places, passive=True)
    return dict(zip(places, counts, strict=True))


def _each(connection: Connection, method: str, places: Sequence[str], **arguments: Any) -> list[int]:
    """Asks for the number of messages of queues, or purges them; 0 for one that does not exist."""
    channel = Channel(connection)
    calls = [(method, {"queue": place, **arguments}) for place in places]
    try:
        return [answer.message_count for answer in channel.call_all(calls)]
    except exceptions.ChannelClosedByBroker:
        if len(places) == 1:
            return [0]
        return [count for place in places for count in _each(connection, method, [place], **arguments)]
    finally:
        channel.close()
