"""What things are called in the virtual host, and how long a message takes through the ladder of delays.

A queue of the engine is several of RabbitMQ's, its *levels*: ``q`` (priority 0), ``q.p1`` ... ``q.p9`` (only those that
were ever used), ``q.front`` (what was given back, fetched first) and ``q.dead`` (dead letters). Quorum queues know no
ten priorities, and a consumer that prefetches from one queue would hold low ones in front of high ones.

The ladder delays by binary numbers. Rung k is a queue whose messages expire after 62.5 ms x 2^k, and an exchange in
front of it: the k-th bit of the routing key's number sends a message into the queue, or past it to the next rung. The
last exchange, ``engine.due``, sends by the last word of the key.
"""

from __future__ import annotations

import math
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
DUE = "engine.due"
"""Exchange at the end of the ladder."""
LOST = "engine.lost"
"""Exchange and queue for delayed messages whose queue is gone."""
LOOK = "engine.look"
"""Queue that whoever looks through dead letters has for itself."""
DECLARE = "engine.declare"
"""Queue that whoever declares streams has for itself."""
PARTITIONS = 16
"""Streams of results: who waits for one result reads the stream it is in."""
RUNGS = 34
STEP = 0.0625
"""Seconds of the lowest rung; the whole ladder holds 34 years."""
MOST_NAME = 150
"""Bytes of a queue's name: a routing key has 255, and the ladder takes some."""
_SUFFIX = {0: "", FRONT: ".front", DEAD: ".dead", **{n: f".p{n}" for n in range(1, 10)}}
_RESERVED = tuple(suffix for suffix in _SUFFIX.values() if suffix)
_QUOTED = str.maketrans({"%": "%25", ".": "%2E", "*": "%2A", "#": "%23"})


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


def rung(number: int) -> str:
    """Returns the name of a rung's queue and exchange."""
    return f"engine.delay.{number}"


def rung_ttl(number: int) -> int:
    """Returns how long a rung holds a message, in whole milliseconds, rounded up."""
    return math.ceil(STEP * 1000 * (1 << number))


def delayed(place: str, seconds: float) -> tuple[str, str]:
    """Returns exchange and routing key for a message that is to come to ``place`` in ``seconds`` (above 0), or up to
    one step later."""
    steps = min(max(1, math.ceil(seconds / STEP)), 2**RUNGS - 1)
    bits = format(steps, f"0{RUNGS}b")
    return rung(steps.bit_length() - 1), f"{'.'.join(bits)}.{quoted(place)}"


def rung_of(exchange: str) -> int:
    """Returns the number of a rung's exchange."""
    return int(exchange.rpartition(".")[2])


def rung_key(number: int, bit: str) -> str:
    """Returns the pattern of routing keys that have ``bit`` at a rung."""
    return "*." * (RUNGS - 1 - number) + bit + ".#"


def due_key(place: str) -> str:
    """Returns the pattern of routing keys that end at a place."""
    return "*." * RUNGS + quoted(place)


def target(key: str) -> str:
    """Returns the queue that a delayed message was for, by its routing key."""
    word = key.rpartition(".")[2]
    for char in (".", "*", "#", "%"):
        word = word.replace(f"%{ord(char):02X}", char)
    return split(word)[0]


def quoted(place: str) -> str:
    """Returns a place as one word of a routing key."""
    return place.translate(_QUOTED)


def split(place: str) -> tuple[str, int]:
    """Returns the queue and level of a place."""
    for level, suffix in _SUFFIX.items():
        if suffix and place.endswith(suffix):
            return place.removesuffix(suffix), level
    return place, 0
