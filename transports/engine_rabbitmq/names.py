"""What things are called in the virtual host.

A queue of the engine is several of RabbitMQ's, its *levels*: ``q`` (priority 0), ``q.p1`` ... ``q.p9`` (only those that
were ever used), ``q.front`` (what was given back, fetched first) and ``q.dead`` (dead letters). Quorum queues know no
ten priorities, and a consumer that prefetches from one queue would hold low ones in front of high ones.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

from engine.errors import TransportError

PRIORITIES = range(10)
FRONT = 10
DEAD = 11
QUEUES = "engine.queues"
"""Stream: which queues and levels there are, which are paused, which were purged when."""
REVOKED = "engine.revoked"
"""Stream: revocations, and the commands to workers."""
LOST = "engine.lost"
"""Exchange and queue for delayed messages whose queue is gone."""
LOOK = "engine.look"
"""Queue that whoever looks through dead letters has for itself."""
DECLARE = "engine.declare"
"""Queue that whoever declares streams has for itself."""
PARTITIONS = 16
"""Streams of results: who waits for one result reads the stream it is in."""
MOST_NAME = 150
"""Bytes of a queue's name: a routing key has 255, and the ladder takes some."""
_SUFFIX = {0: "", FRONT: ".front", DEAD: ".dead", **{n: f".p{n}" for n in range(1, 10)}}
_RESERVED = tuple(suffix for suffix in _SUFFIX.values() if suffix)


@lru_cache(maxsize=4096)
def place(queue: str, level: int) -> str:
    """Returns the RabbitMQ queue of a level. Raises TransportError for a name that cannot be one."""
    if not queue or len(queue.encode()) > MOST_NAME:
        raise TransportError(f"queue {queue[:60]!r}...: a name must have 1 to {MOST_NAME} bytes on RabbitMQ")
    if queue.startswith(("amq.", "engine.")) or queue.endswith(_RESERVED):
        raise TransportError(
            f"queue {queue!r}: on RabbitMQ a name must not begin with amq. or engine. and not end with .front, .dead "
            "or .p1 to .p9, which name parts of a queue: choose another"
        )
    return queue + _SUFFIX[level]


def results(id: str) -> str:
    """Returns the stream of a task's result."""
    return f"engine.results.{crc32(id.encode()) % PARTITIONS}"


def split(place: str) -> tuple[str, int]:
    """Returns the queue and level of a place."""
    for level, suffix in _SUFFIX.items():
        if suffix and place.endswith(suffix):
            return place.removesuffix(suffix), level
    return place, 0
