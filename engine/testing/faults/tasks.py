"""The app that is run under faults: tasks that write the ledger, and tasks that die.

Its ``engine start`` runs in the folder in which the ledger is to be.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any

from engine import Engine
from engine.testing.faults.ledger import ended, note, started

app = Engine("faults")


@app.task(bind=True, name="faults.sleep")
def sleep(self: Any, seconds: float = 0.0) -> str:
    """Starts, lasts, ends; returns its id."""
    request = self.request
    started(request.id, request.deliveries)
    time.sleep(seconds)
    ended(request.id)
    return str(request.id)


@app.task(bind=True, name="faults.last")
def last(self: Any, seconds: float) -> str:
    """As `sleep`, but busy."""
    until = time.perf_counter() + seconds
    started(self.request.id, self.request.deliveries)
    while time.perf_counter() < until:
        pass
    ended(self.request.id)
    return str(self.request.id)


@app.task(bind=True, name="faults.hold")
def hold(self: Any, gate: str) -> str:
    """Lasts until there is a file of that name in the engine's folder."""
    started(self.request.id, self.request.deliveries)
    while not os.path.exists(gate):
        time.sleep(0.01)
    ended(self.request.id)
    return str(self.request.id)


@app.task(bind=True, name="faults.again")
def again(self: Any, times: int, delay: float = 0.0) -> int:
    """Retries itself so many times, then ends."""
    started(f"{self.request.id}/{self.request.retries}", self.request.deliveries)
    if self.request.retries < times:
        raise self.retry(countdown=delay, max_retries=times)
    ended(f"{self.request.id}/{self.request.retries}")
    return times


@app.task(bind=True, name="faults.send")
def send(self: Any, count: int) -> list[str]:
    """Sends so many of `sleep`, one by one; returns their ids."""
    started(self.request.id, self.request.deliveries)
    return [sleep.delay().id for _ in range(count)]


@app.task(name="faults.take", typing=False)
def take(*args: Any, **kwargs: Any) -> None:
    """Takes anything, and does nothing."""


@app.task(name="faults.big")
def big(size: int) -> str:
    """Returns so many characters."""
    return "x" * size


@app.task(bind=True, name="faults.die")
def die(self: Any, how: str) -> None:
    """Ends its own process: "SIGKILL", "SIGSEGV", "abort", or an exit status."""
    note("S", self.request.id, os.getpid(), f"{time.monotonic():.6f}", self.request.deliveries)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "SIGSEGV":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    os._exit(int(how))
