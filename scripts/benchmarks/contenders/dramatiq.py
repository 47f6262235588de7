"""Dramatiq, as it comes (8 threads in each process), or at its best: one thread, and a prefetch of 1000."""

from __future__ import annotations

import sys
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

import ledger
from contenders import keeps, setting

PREFETCH = setting("VARIANT") == "prefetch"
is_redis = setting("BROKER").startswith("redis")
broker = RedisBroker(url=setting("BROKER")) if is_redis else RabbitmqBroker(url=setting("BROKER"))
if keeps():
    broker.add_middleware(Results(backend=RedisBackend(url=setting("RESULTS")), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop() -> int | None:
    """Does nothing. What is returned and not kept is worth a warning to it."""
    ledger.count()
    return 1 if keeps() else None


@dramatiq.actor
def stamp(sent: float) -> None:
    """Notes when it started."""
    ledger.stamp(sent)


def worker(children: int) -> list[str]:
    """See `contenders`."""
    # The prefetch is read when dramatiq is imported, which is before this module is.
    prefix = ["env", "dramatiq_queue_prefetch=1000"] if PREFETCH else []
    command = [*prefix, sys.executable, "-m", "dramatiq", "contenders.dramatiq", "-p", str(children)]
    return [*command, *(["-t", "1"] if PREFETCH else [])]


def send(count: int) -> list[Any]:
    """See `contenders`."""
    return [noop.send() for _ in range(count)]


def send_bulk(count: int) -> list[Any]:
    """See `contenders`."""
    return list(dramatiq.group(noop.message() for _ in range(count)).run().children)


def kept(sent: list[Any]) -> int:
    """See `contenders`."""
    return sum(message.get_result(block=True, timeout=2000) == 1 for message in sent)


def call() -> None:
    """See `contenders`."""
    noop.send().get_result(block=True, timeout=30_000)


def send_stamp(now: float) -> None:
    """See `contenders`."""
    stamp.send(now)
