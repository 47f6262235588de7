"""This engine, acknowledging late as its shipped configuration does."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import ledger
from contenders import keeps, setting
from engine import Engine

FOLDER = Path(setting("FOLDER"))
QUEUES = [f"q{number}" for number in range(int(os.environ.get("BENCH_QUEUES", "1")) - 1)]
BALLAST = [os.urandom(4096) for _ in range(int(os.environ.get("BENCH_BALLAST", "0")) * 256)]
"""Stands for libraries that an app imports: so many MiB of small objects."""
CONFIG = """
[engine]
name = "bench"
app = "contenders.engine:app"
runtime_dir = "{folder}/run"

[broker]
url = "{broker}"

{results}

[worker]
concurrency = {children}
queues = [{queues}]
log_level = "WARNING"

[tasks]
acks_late = true
ignore_result = {ignore}
"""
URLS = {"sqlite": f"sqlite:///{FOLDER}/bench.db", "memory": "memory://"}
"""Of the transports that need no server."""

app = Engine("bench")


@app.task(name="noop")
def noop() -> int:
    """Does nothing."""
    ledger.count()
    return 1


@app.task(name="stamp", ignore_result=True)
def stamp(sent: float) -> None:
    """Notes when it started."""
    ledger.stamp(sent)


@app.task(name="take")
def take(payload: str) -> str:
    """Gets something large, and returns its digest."""
    import hashlib  # late: a no-op must not pay for it

    ledger.count()
    return hashlib.blake2b(payload.encode()).hexdigest()


@app.task(name="last", ignore_result=True)
def last(seconds: float) -> None:
    """Lasts."""
    time.sleep(seconds)
    ledger.count()


def worker(children: int) -> list[str]:
    """See `contenders`."""
    variant = setting("VARIANT").split()[0]
    broker = URLS.get(variant, setting("BROKER"))
    kept_at = broker if variant != "rabbitmq" else setting("RESULTS")
    results = f'[results]\nurl = "{kept_at}"' if keeps() else ""
    queues = ", ".join(f'"{queue}"' for queue in ["default", *QUEUES])
    config = FOLDER / "worker.toml"
    ignore = str(not keeps()).lower()
    config.write_text(
        CONFIG.format(folder=FOLDER, broker=broker, results=results, children=children, queues=queues, ignore=ignore)
    )
    return [sys.executable, "-m", "engine.cli.main", "start", "-c", str(config)]


def hold() -> None:
    """Keeps messages from being fetched, where a worker must be up before there can be any."""
    _pause(True)


def let_go() -> None:
    """Ends `hold`."""
    _pause(False)


def _pause(paused: bool) -> None:
    for queue in ("default", *QUEUES):
        app.client.broker(lambda transport, queue=queue: transport.pause(queue, paused))  # type: ignore[misc]


def send(count: int) -> list[str]:
    """See `contenders`."""
    return [noop.delay().id for _ in range(count)]


def send_bulk(count: int) -> list[str]:
    """See `contenders`."""
    sent: list[str] = []
    while len(sent) < count:
        # In parts, so that the client's memory is not what is measured.
        part = min(10_000, count - len(sent))
        sent += [result.id for result in app.send_many([noop.s()] * part)]
    return sent


def send_around(count: int) -> list[str]:
    """Sends in bulk to all queues in turn."""
    queues = ["default", *QUEUES]
    return [result.id for result in app.send_many([noop.s().set(queue=queues[n % len(queues)]) for n in range(count)])]


def send_payloads(count: int, size: int) -> list[str]:
    """Sends tasks with so many characters each."""
    payload = "x" * size
    return [take.delay(payload).id for _ in range(count)]


def send_last(seconds: float, count: int) -> None:
    """Sends tasks that last."""
    for _ in range(count):
        last.delay(seconds)


def send_beside(seconds: float, count: int) -> list[str]:
    """Sends one task that lasts, and no-ops, together."""
    return [result.id for result in app.send_many([last.s(seconds), *[noop.s()] * count])]


def kept(sent: list[str]) -> int:
    """See `contenders`."""
    return sum(app.AsyncResult(id).state == "SUCCESS" for id in sent)


def call() -> None:
    """See `contenders`."""
    noop.delay().get(timeout=30)


def send_stamp(now: float) -> None:
    """See `contenders`."""
    stamp.delay(now)
