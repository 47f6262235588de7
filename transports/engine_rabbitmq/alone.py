"""A lock between all clients of a virtual host: a queue that only one connection can have."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pika import exceptions

from engine_rabbitmq.channel import Channel
from engine_rabbitmq.faults import fault
from engine_rabbitmq.loop import Loop

_TURN = 10.0
"""Seconds to wait for others."""
_AGAIN = 0.05
_LOCKED = 405


@contextmanager
def alone(loop: Loop, name: str) -> Iterator[None]:
    """Does what is inside while no other connection does what is inside of the same name. The lock ends with the
    connection. Raises BrokerUnavailable when others take too long."""
    channel = Channel(loop)
    deadline = time.monotonic() + _TURN
    while True:
        try:
            channel.call("queue_declare", queue=name, exclusive=True)
            break
        except exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _LOCKED or time.monotonic() >= deadline:
                raise fault(error, loop.address.place) from error
        time.sleep(_AGAIN)
    try:
        yield
    finally:
        if loop.error is None:
            channel.call("queue_delete", queue=name)
            channel.close()
