"""What a scripted server of AMQP keeps: the messages of its queues, who gets them, and what is not acknowledged yet."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pika import frame, spec

from engine.testing.faults.scripted import Link

Place = tuple[Link, int]
"""A channel of a connection."""


@dataclass
class Message:
    """One message, wherever it is."""

    queue: str
    properties: Any
    body: bytes
    redelivered: bool = False


@dataclass(frozen=True)
class Consumer:
    """Somebody who is to get the messages of a queue."""

    place: Place
    tag: str
    queue: str
    acknowledges: bool = True


class Queues:
    """Queues that exist when they are named. No limits, no prefetch: who subscribes gets all there is. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: defaultdict[str, deque[Message]] = defaultdict(deque)
        self._consumers: list[Consumer] = []
        self._unsettled: defaultdict[Place, dict[int, Message]] = defaultdict(dict)
        self._numbers: defaultdict[Place, itertools.count[int]] = defaultdict(lambda: itertools.count(1))

    def count(self, queue: str) -> int:
        """Returns how many messages of a queue wait for somebody."""
        with self._lock:
            return len(self._waiting[queue])

    def consumers(self, queue: str) -> list[Consumer]:
        """Returns who gets the messages of a queue."""
        with self._lock:
            return [one for one in self._consumers if one.queue == queue]

    def put(self, message: Message) -> None:
        """Adds a message at the end of its queue."""
        with self._lock:
            self._waiting[message.queue].append(message)
            self._deal(message.queue)

    def subscribe(self, consumer: Consumer) -> None:
        """Adds a consumer."""
        with self._lock:
            self._consumers.append(consumer)
            self._deal(consumer.queue)

    def unsubscribe(self, place: Place, tag: str) -> None:
        """Takes a consumer out. What it holds stays its own."""
        with self._lock:
            self._consumers = [one for one in self._consumers if (one.place, one.tag) != (place, tag)]

    def settle(self, place: Place, number: int, *, multiple: bool = False, requeue: bool = False) -> None:
        """Ends a delivery, or all up to it (0: all there are); with ``requeue`` they go back to the front."""
        with self._lock:
            held = self._unsettled[place]
            ended = [one for one in held if one == number or (multiple and (one < number or number == 0))]
            back = [held.pop(one) for one in ended]
            if requeue:
                self._put_back(back)

    def leave(self, link: Link, channel: int | None = None) -> None:
        """Ends a channel, or all channels of a connection: what it held goes back."""
        with self._lock:
            gone = [place for place in self._places() if place[0] is link and channel in (None, place[1])]
            self._consumers = [one for one in self._consumers if one.place not in gone]
            for place in gone:
                self._numbers.pop(place, None)
                self._put_back(self._unsettled.pop(place, {}).values())

    def _places(self) -> set[Place]:
        return {*self._unsettled, *self._numbers, *(one.place for one in self._consumers)}

    def _put_back(self, messages: Iterable[Message]) -> None:
        back = list(messages)
        for message in reversed(back):
            message.redelivered = True
            self._waiting[message.queue].appendleft(message)
        for queue in {message.queue for message in back}:
            self._deal(queue)

    def _deal(self, queue: str) -> None:
        """Hands out what waits, to the one who has subscribed for longest."""
        consumer = next(iter(self.consumers(queue)), None)
        while consumer is not None and self._waiting[queue]:
            self._hand_out(consumer, self._waiting[queue].popleft())

    def _hand_out(self, consumer: Consumer, message: Message) -> None:
        link, channel = consumer.place
        number = next(self._numbers[consumer.place])
        if consumer.acknowledges:
            self._unsettled[consumer.place][number] = message
        method = spec.Basic.Deliver(consumer.tag, number, message.redelivered, "", message.queue)
        frames = (
            frame.Method(channel, method),
            frame.Header(channel, len(message.body), message.properties),
            *([frame.Body(channel, message.body)] if message.body else []),
        )
        try:
            link.send(b"".join(one.marshal() for one in frames))
        except OSError:
            return  # it is leaving, and what it holds comes back
