"""Declares what the engine needs in the virtual host. What is there already is used as it is, also when it differs.

Arguments of a queue never change after its declaration, so no limit that an operator may want to change is one of
them: those belong into a policy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pika import exceptions

from engine.errors import TransportError
from engine_rabbitmq import delay_ladder, names
from engine_rabbitmq.channel import Call, Channel
from engine_rabbitmq.connection import Connection
from engine_rabbitmq.exclusive import exclusive_lock
from engine_rabbitmq.failures import NotStarted, failure

log = logging.getLogger("engine.rabbitmq")
DELIVERY_LIMIT = 1000
"""Deliveries after which the server itself makes a dead letter, should no worker come so far as to do it. It counts one
for all that a lost connection held, begun or not."""
_UNLIMITED = 2**31 - 1
_REVOCATIONS = 64 * 2**20
_SEGMENT = 4 * 2**20
RESULTS_DAYS = 7
"""Days for which a stream keeps results, whatever they say of themselves."""
_RESULTS = 256 * 2**20
_RESULTS_SEGMENT = 16 * 2**20
_DIFFERS = 406
_START = 2.0
"""Seconds for which a declaration waits for a node that has not finished its start: its streams come up last."""
_AGAIN = 0.05
_CONSUMER_TIMEOUT_SINCE = (3, 12)


class Topology:
    """Declarations over one connection. One thread at a time."""

    def __init__(self, connection: Connection, queue_type: str, consumer_timeout: float | None) -> None:
        self._connection = connection
        self._channel = Channel(connection)
        self._type = queue_type
        self._consumer_timeout = consumer_timeout
        self._places: set[str] = set()
        self._rungs = 0
        self._has_streams = False
        self._results: set[str] = set()
        self.notes: list[str] = []
        """What was found to be declared otherwise."""

    def streams(self) -> None:
        """Declares the streams. Raises BrokerUnavailable."""
        if not self._has_streams:
            sized = {"x-max-length-bytes": _REVOCATIONS, "x-stream-max-segment-size-bytes": _SEGMENT}
            self._declare_streams({names.QUEUES: {}, names.REVOKED: sized})
            self._has_streams = True

    def results(self, streams: Iterable[str]) -> None:
        """Declares streams of results, if this connection has not yet."""
        missing = [stream for stream in streams if stream not in self._results]
        if missing:
            arguments = {
                "x-max-age": f"{RESULTS_DAYS}D",
                "x-max-length-bytes": _RESULTS,
                "x-stream-max-segment-size-bytes": _RESULTS_SEGMENT,
            }
            self._declare_streams(dict.fromkeys(missing, arguments))
            self._results.update(missing)

    def forget_results(self) -> None:
        """Says that a stream of results is gone."""
        self._results.clear()

    def places(self, places: Iterable[tuple[str, int]], *, again: bool = False) -> None:
        """Declares levels of queues, if this connection has not yet, or ``again``."""
        wanted = [(queue, level) for queue, level in places if again or names.place(queue, level) not in self._places]
        if not wanted:
            return
        self._declare([(names.place(queue, level), self._arguments(queue, level)) for queue, level in wanted])
        bound = [names.place(queue, level) for queue, level in wanted if level in names.PRIORITIES]
        if bound:
            self._declare_due()
            self._calls([_bind(place, delay_ladder.DUE, delay_ladder.due_key(place)) for place in bound])
        self._places.update(names.place(queue, level) for queue, level in wanted)

    def forget(self, place: str) -> bool:
        """Says that a place is gone, so that it is declared again when it is wanted; returns whether that is news. Any
        thread."""
        is_news = place in self._places
        self._places.discard(place)
        return is_news

    def ladder(self, rung: int) -> None:
        """Declares the ladder of delays up to a rung."""
        if rung < self._rungs:
            return
        self._declare_due()
        for number in range(self._rungs, rung + 1):
            self._declare_rung(number)
            self._rungs = number + 1

    def _declare_due(self) -> None:
        if self._rungs == 0:
            self._declare([(names.LOST, self._limitless())])
            self._calls([_exchange(names.LOST, "fanout"), _bind(names.LOST, names.LOST, "")])
            self._calls([_exchange(delay_ladder.DUE, "topic", {"alternate-exchange": names.LOST})])

    def _declare_rung(self, number: int) -> None:
        name, following = delay_ladder.rung(number), delay_ladder.DUE if number == 0 else delay_ladder.rung(number - 1)
        self._calls([_exchange(name, "topic")])
        # Quorum whatever the queues are: the server limits the expiry of other queues to 49 days.
        arguments = {
            "x-queue-type": "quorum",
            "x-message-ttl": delay_ladder.rung_ttl(number),
            "x-dead-letter-exchange": following,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        self._declare([(name, arguments)])
        past = {"destination": following, "source": name, "routing_key": delay_ladder.rung_key(number, "0")}
        self._calls([_bind(name, name, delay_ladder.rung_key(number, "1")), ("exchange_bind", past)])

    def _arguments(self, queue: str, level: int) -> dict[str, Any]:
        if level == names.DEAD:
            return self._limitless()
        arguments: dict[str, Any] = {
            "x-queue-type": self._type,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": names.place(queue, names.DEAD),
        }
        if self._type == "quorum":
            arguments |= {
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
                "x-delivery-limit": DELIVERY_LIMIT,
            }
        if self._consumer_timeout is not None and server_version(self._connection) >= _CONSUMER_TIMEOUT_SINCE:
            arguments["x-consumer-timeout"] = int(self._consumer_timeout * 1000)
        return arguments

    def _limitless(self) -> dict[str, Any]:
        limit = {"x-delivery-limit": _UNLIMITED} if self._type == "quorum" else {}
        return {"x-queue-type": self._type, **limit}

    def _declare_streams(self, streams: Mapping[str, Mapping[str, Any]]) -> None:
        """Declares streams, alone: while one is being made for somebody else, RabbitMQ says that it is there, and fails
        at whoever uses it."""
        with exclusive_lock(self._connection, names.DECLARE):
            for name, arguments in streams.items():
                self._declare([(name, {"x-queue-type": "stream", **arguments})])

    def _declare(self, queues: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        calls = [("queue_declare", {"queue": name, "durable": True, "arguments": dict(args)}) for name, args in queues]
        try:
            self._call_started(calls)
        except exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _DIFFERS:
                raise failure(error, self._connection.address.place) from error
            if len(queues) == 1:
                self._use_as_it_is(queues[0][0], error)
            else:
                for one in queues:
                    self._declare([one])

    def _call_started(self, calls: Sequence[Call]) -> None:
        """Makes requests; again, for a while, as long as the node has not finished its start."""
        deadline = time.monotonic() + _START
        while True:
            try:
                self._channel.call_all(calls)
                return
            except exceptions.ChannelClosedByBroker as error:
                told = failure(error, self._connection.address.place)
                if not isinstance(told, NotStarted) or time.monotonic() >= deadline:
                    raise
            time.sleep(_AGAIN)

    def _use_as_it_is(self, name: str, error: exceptions.ChannelClosedByBroker) -> None:
        self._calls([("queue_declare", {"queue": name, "passive": True})])
        note = f"queue {name!r} was declared with other arguments and is used as it is: {error.reply_text}"
        log.warning("%s", note)
        self.notes.append(note)

    def _calls(self, calls: Sequence[Call]) -> None:
        try:
            self._channel.call_all(calls)
        except exceptions.ChannelClosedByBroker as error:
            if error.reply_code == _DIFFERS:
                raise TransportError(
                    f"{self._connection.address.place}: an exchange of the engine's was declared otherwise by somebody "
                    f"else: delete it, or use another virtual host ({error.reply_text})"
                ) from error
            raise failure(error, self._connection.address.place) from error


def server_version(connection: Connection) -> tuple[int, ...]:
    """Returns the server's version, such as (3, 10, 8); () if it does not tell."""
    parts = str(connection.server.get("version", "")).split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _exchange(name: str, kind: str, arguments: dict[str, Any] | None = None) -> Call:
    return ("exchange_declare", {"exchange": name, "exchange_type": kind, "durable": True, "arguments": arguments})


def _bind(queue: str, exchange: str, key: str) -> Call:
    return ("queue_bind", {"queue": queue, "exchange": exchange, "routing_key": key})


def with_companions(places: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Returns places with what belongs to each queue whatever is sent: the dead first, as the others point there."""
    wanted = dict.fromkeys((queue, level) for queue, own in places for level in (names.DEAD, 0, names.FRONT, own))
    return list(wanted)
