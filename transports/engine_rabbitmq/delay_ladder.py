"""Delays: a ladder of queues through which a message takes as long as its number says.

Rung k is a queue whose messages expire after 62.5 ms x 2^k, and an exchange in front of it. A routing key begins with
the delay as a binary number: its k-th bit sends the message into the queue of rung k, or past it to the next rung. The
last exchange, ``engine.due``, sends by the last word of the key, the queue. Nothing is held in a worker.
"""

from __future__ import annotations

import math

from engine_rabbitmq import names

DUE = "engine.due"
"""Exchange at the end of the ladder."""
RUNGS = 34
STEP = 0.0625
"""Seconds of the lowest rung; the whole ladder holds 34 years."""
_QUOTED = str.maketrans({"%": "%25", ".": "%2E", "*": "%2A", "#": "%23"})


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
    return names.split(word)[0]


def quoted(place: str) -> str:
    """Returns a place as one word of a routing key."""
    return place.translate(_QUOTED)
