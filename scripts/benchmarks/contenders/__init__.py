"""Who takes part. One file for each: it is imported by the client process and by the worker, and holds

- ``worker(children) -> list[str]``: the command that starts a worker;
- ``send(count)``: sends no-op tasks one by one, ``send_bulk(count)`` together: both return handles of them;
- ``kept(sent) -> int``: how many of them have a result;
- ``call()``: sends one no-op task and waits for its result;
- ``send_stamp(now)``: sends one that notes when it started.

The no-op task calls `ledger.count`, the other one `ledger.stamp`. A worker is quiet: it logs at WARNING. What differs
from run to run comes through the environment, see `setting`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Contender:
    """A worker under test."""

    name: str
    module: str
    broker: str
    """"redis", "rabbitmq", or "none" when it brings its own."""
    acknowledges: str
    tasks: int
    """How many make a drain of two or three seconds."""
    variant: str = ""
    latency: bool = True
    """Does it take part where one task at a time is measured?"""
    worker_first: bool = False
    """Must a worker be up before anything can be sent?"""
    quick: bool = True
    """Does it take part with --quick?"""


CONTENDERS = [
    Contender("engine, Redis", "engine", "redis", "late", 60_000, "redis"),
    Contender("engine, SQLite", "engine", "none", "late", 60_000, "sqlite"),
    Contender("engine, memory", "engine", "none", "late", 60_000, "memory", worker_first=True),
    Contender("engine, RabbitMQ", "engine", "rabbitmq", "late", 30_000, "rabbitmq", quick=False),
    Contender("floor, Redis", "floor", "redis", "late", 80_000, latency=False),
    Contender("Celery, Redis", "celery", "redis", "early", 3_000, quick=False),
    Contender("Celery tuned, Redis", "celery", "redis", "early", 3_000, "tuned"),
    Contender("Celery tuned late, Redis", "celery", "redis", "late", 3_000, "tuned late", latency=False, quick=False),
    Contender("Dramatiq, Redis", "dramatiq", "redis", "late", 8_000, quick=False),
    Contender("Dramatiq -t1 prefetch, Redis", "dramatiq", "redis", "late", 16_000, "prefetch"),
    Contender("Huey, Redis", "huey", "redis", "pops and forgets", 10_000),
    Contender("Celery, RabbitMQ", "celery", "rabbitmq", "early", 6_000, quick=False),
    Contender("Celery tuned, RabbitMQ", "celery", "rabbitmq", "early", 6_000, "tuned", quick=False),
    Contender("Dramatiq, RabbitMQ", "dramatiq", "rabbitmq", "late", 14_000, quick=False),
    Contender("Dramatiq -t1 prefetch, RabbitMQ", "dramatiq", "rabbitmq", "late", 14_000, "prefetch", quick=False),
]


def setting(name: str) -> str:
    """Returns what the harness says: "BROKER" and "RESULTS" (URLs), "KEEP" ("1": keep results), "VARIANT", "FOLDER"."""
    return os.environ[f"BENCH_{name}"]


def keeps() -> bool:
    """Are results kept in this run?"""
    return setting("KEEP") == "1"
