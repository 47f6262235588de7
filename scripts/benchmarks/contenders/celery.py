"""Celery, as it comes or tuned (prefetch 1000, no events, gossip, mingle or heartbeat), acknowledging early or late."""

from __future__ import annotations

import sys

from celery import Celery

import ledger
from contenders import keeps, setting

TUNED = "tuned" in setting("VARIANT")

app = Celery("bench", broker=setting("BROKER"), backend=setting("RESULTS") if keeps() else None)
app.conf.update(
    task_ignore_result=not keeps(),
    task_acks_late="late" in setting("VARIANT"),
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
if TUNED:
    app.conf.worker_prefetch_multiplier = 500


@app.task(name="noop")
def noop() -> int:
    """Does nothing."""
    ledger.count()
    return 1


@app.task(name="stamp")
def stamp(sent: float) -> None:
    """Notes when it started."""
    ledger.stamp(sent)


def worker(children: int) -> list[str]:
    """See `contenders`."""
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "contenders.celery",
        "worker",
        "-c",
        str(children),
        "-l",
        "WARNING",
    ]
    return [*command, "--without-gossip", "--without-mingle", "--without-heartbeat"] if TUNED else command


def send(count: int) -> list[str]:
    """See `contenders`."""
    return [noop.delay().id for _ in range(count)]


def send_bulk(count: int) -> list[str]:
    """See `contenders`. Its nearest thing: one producer for all."""
    with app.producer_pool.acquire(block=True) as producer:
        return [noop.apply_async(producer=producer).id for _ in range(count)]


def kept(sent: list[str]) -> int:
    """See `contenders`."""
    return sum(app.AsyncResult(id).state == "SUCCESS" for id in sent)


def call() -> None:
    """See `contenders`."""
    noop.delay().get(timeout=30)


def send_stamp(now: float) -> None:
    """See `contenders`."""
    stamp.apply_async((now,), ignore_result=True)
