"""What a message looks like in RabbitMQ, both ways.

===================  =====================================================================================
property             meaning
===================  =====================================================================================
body                 the engine's message, as it is
message_id           the task's id
priority             0..9; the queue it lies in says the same
engine-deliveries    earlier deliveries that counted (the broker's own x-delivery-count comes on top)
engine-crashes       runs that ended by the death of their process
engine-replayed      a run of it may go on that nobody has announced: its publish was repeated, or it came again
                     after a loss before it was given back
engine-copy          another copy of it may be there, which says so too: a retry, or what was given back
engine-sent          when a delayed message was sent, for a purge that comes before it is due
engine-reason        of a dead letter: why
engine-died          of a dead letter: when
===================  =====================================================================================

Numbers are left out when they are 0. Times are microseconds since the epoch (pika writes no fractions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pika

from engine.contract import Delivery, Envelope
from engine_rabbitmq import delay_ladder, names

_MOST_REASON = 16 * 1024
"""Characters of a reason: headers must fit into one frame."""


class Outgoing:
    """One message to publish."""

    __slots__ = ("body", "exchange", "key", "level", "properties", "queue")

    def __init__(self, exchange: str, key: str, body: bytes, properties: Any, queue: str, level: int) -> None:
        self.exchange = exchange
        self.key = key
        self.body = body
        self.properties = properties
        self.queue = queue
        """The queue it is for, and at which level: what to declare when nothing takes it."""
        self.level = level


class Entry:
    """A message that the server has delivered and that is not settled."""

    __slots__ = (
        "body",
        "claim",
        "copied",
        "crashes",
        "deliveries",
        "gate",
        "headers",
        "id",
        "level",
        "period",
        "priority",
        "queue",
        "successor",
        "tag",
    )

    def __init__(self, queue: str, level: int, tag: int, redelivered: bool, properties: Any, body: bytes) -> None:
        headers: Mapping[str, Any] = properties.headers or {}
        self.queue = queue
        self.level = level
        self.tag = tag
        self.body = body
        self.id: str = properties.message_id or ""
        self.headers = headers
        self.deliveries = 1
        self.crashes = 0
        self.gate = redelivered
        """May another run of it go on, or another copy of it be there?"""
        self.copied = False
        """With ``gate``: can it only be another copy?"""
        self.claim = b""
        """Empty while it is in no lane's hands."""
        self.period = 0
        """Under which subscription it was handed out."""
        self.successor: Any = None
        """What was tried to be sent in its place: see `engine_rabbitmq.consumer`."""
        self.priority = level if level in names.PRIORITIES else min(9, _count(properties.priority))
        if headers:
            self.deliveries += _count(headers.get("engine-deliveries"))
            if level != names.DEAD:  # there, the server's count says only how often somebody looked
                counted = headers.get("x-delivery-count")
                self.deliveries += _count(counted) if counted is not None else redelivered
            self.crashes = _count(headers.get("engine-crashes"))
            self.gate = redelivered or headers.get("engine-replayed") is True
            if not self.gate and headers.get("engine-copy") is True:
                self.gate = self.copied = True
        elif redelivered:
            self.deliveries = 2

    def delivery(self, revoked: bool) -> Delivery:
        """Returns it as a lane sees it."""
        return Delivery(
            self.id,
            self.queue,
            self.body,
            self.claim,
            self.deliveries,
            self.crashes,
            self.priority,
            revoked,
            self.gate,
            self.copied,
        )


def outgoing(envelope: Envelope, due: float | None, now: float, *, retry: bool = False) -> Outgoing:
    """Returns a new message. ``due``: when, if not now. ``retry``: each copy of it says that there may be another.
    Raises TransportError for a queue's name that cannot be."""
    headers: dict[str, Any] = {"engine-copy" if retry else "engine-replayed": True} if envelope.replayed else {}
    priority = min(9, max(0, envelope.priority))
    return _addressed(envelope.id, envelope.queue, priority, priority, envelope.body, headers, due, now)


def copy_of(entry: Entry, at: float | None, now: float, *, deliveries: int = 0, crashes: int = 0) -> Outgoing:
    """Returns the message of an entry once more, for the front of its queue, or for ``at``. Adds to its counts: then it
    was decided what became of its run."""
    headers = _kept(entry, entry.deliveries - 1 + deliveries, entry.crashes + crashes)
    if deliveries:
        headers.pop("engine-replayed", None)
    headers["engine-copy"] = True
    level = entry.priority if at is not None else names.FRONT
    return _addressed(entry.id, entry.queue, level, entry.priority, entry.body, headers, at, now)


def mark_replayed(item: Outgoing) -> None:
    """Marks a message that may have been published before."""
    item.properties.headers = {**(item.properties.headers or {}), "engine-replayed": True}


def revived(entry: Entry, now: float) -> Outgoing:
    """Returns the message of a dead letter for the end of its queue: a further delivery, its crashes forgiven."""
    headers = {"engine-deliveries": entry.deliveries}
    return _addressed(entry.id, entry.queue, entry.priority, entry.priority, entry.body, headers, None, now)


def dead_copy(entry: Entry, reason: str, now: float, *, crashes: int = 0) -> Outgoing:
    """Returns the message of an entry as a dead letter. Adds to its crashes."""
    headers = _kept(entry, entry.deliveries - 1, entry.crashes + crashes)
    headers["engine-reason"] = reason[:_MOST_REASON]
    headers["engine-died"] = micros(now)
    return _addressed(entry.id, entry.queue, names.DEAD, entry.priority, entry.body, headers, None, now)


def _kept(entry: Entry, deliveries: int, crashes: int) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    if deliveries > 0:
        headers["engine-deliveries"] = deliveries
    if crashes > 0:
        headers["engine-crashes"] = crashes
    if entry.gate and not entry.copied:
        headers["engine-replayed"] = True
    return headers


def _addressed(
    id: str, queue: str, level: int, priority: int, body: bytes, headers: dict[str, Any], due: float | None, now: float
) -> Outgoing:
    place = names.place(queue, level)
    exchange, key = "", place
    if due is not None and due > now:
        headers["engine-sent"] = micros(now)
        exchange, key = delay_ladder.delayed(place, due - now)
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        priority=priority or None,
        message_id=id,
        headers=headers or None,
    )
    return Outgoing(exchange, key, body, properties, queue, level)


def micros(seconds: float) -> int:
    """Returns a time as it stands in a header."""
    return int(seconds * 1e6)


def _count(value: object) -> int:
    """Returns a count that anybody may have written."""
    return min(int(value), 2**31) if isinstance(value, int) and value > 0 else 0
