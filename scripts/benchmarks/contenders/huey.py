"""Huey, with processes, blocking reads, and results that are announced (without, a client polls)."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from huey import RedisHuey

import ledger
from contenders import keeps, setting

logging.getLogger("huey").setLevel(logging.WARNING)
app = RedisHuey("bench", url=setting("BROKER"), results=keeps(), notify_result=keeps())


@app.task()
def noop() -> int:
    """Does nothing."""
    ledger.count()
    return 1


@app.task()
def stamp(sent: float) -> None:
    """Notes when it started."""
    ledger.stamp(sent)


def worker(children: int) -> list[str]:
    """See `contenders`."""
    program = os.path.join(os.path.dirname(sys.executable), "huey_consumer")
    return [program, "contenders.huey.app", "-w", str(children), "-k", "process", "-n", "-q"]


def send(count: int) -> list[Any]:
    """See `contenders`."""
    return [noop() for _ in range(count)]


def send_bulk(count: int) -> list[Any]:
    """See `contenders`. It has no other way."""
    return send(count)


def kept(sent: list[Any]) -> int:
    """See `contenders`."""
    return sum(result.get(blocking=True, timeout=2) == 1 for result in sent)


def call() -> None:
    """See `contenders`."""
    noop().get(blocking=True, timeout=30)


def send_stamp(now: float) -> None:
    """See `contenders`."""
    stamp(now)
