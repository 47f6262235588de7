"""A lock between all clients of a virtual host: a queue that only one connection can have."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pika import exceptions

from engine_rabbitmq.channel import Channel
from engine_rabbitmq.connection import Connection
from engine_rabbitmq.failures import failure

_TURN = 10.0
"""Seconds to wait for others."""
_AGAIN = 0.05
_LOCKED = 405


@contextmanager
def exclusive_lock(connection: Connection, name: str) -> Iterator[None]:
    """Does what is inside while no other connection does what is inside of the same name. The lock ends with the
    connection. Raises BrokerUnavailable when others take too long."""
    channel = Channel(connection)
    deadline = time.monotonic() + _TURN
    while True:
        try:
            channel.call("queue_declare", queue=name, exclusive=True)
            break
        except exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _LOCKED or time.monotonic() >= deadline:
                raise failure(error, connection.address.place) from error
        time.sleep(_AGAIN)
    try:
        yield
    finally:
        if connection.error is None:
            channel.call("queue_delete", queue=name)
            channel.close()
