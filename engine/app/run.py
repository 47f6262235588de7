"""A run of a message: what `engine.app.execute` needs from whoever runs it, and the run that happens here and now."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from engine.contract.results import Record


class Run(Protocol):
    """Who runs a message: a child, or `EagerRun`. One object may serve one run after another."""

    sequence: int
    number: int
    queue: str
    claim: bytes
    """Empty: there is nothing to settle (acknowledged before it started, or eager)."""
    deliveries: int
    crashes: int
    hostname: str
    worker: str
    is_eager: bool
    interrupted: str | None
    """"shutdown" or "revoked" once `Interrupted` was raised in this run."""
    tainted: str | None
    """Written by execute: why this child should be replaced after the run, such as "raised GeneratorExit"."""
    deliver: Callable[[BaseException], None] | None
    """Written by execute: not None while a coroutine runs. The signal handler then calls it with the exception instead
    of raising it, and the exception comes up at the coroutine's await."""

    def emit(self, record: Record) -> None:
        """Takes a record written while the task runs (STARTED, ``update_state``): in order, before the outcome."""

    def invoke(self, call: Callable[[], Any]) -> Any:
        """Calls the user's function and returns what it returns. Limits and interruptions are raised only in here."""

    def shield(self) -> AbstractContextManager[None]:
        """Returns a context in which soft limit and interruption wait for its end."""

    def time_left(self) -> float | None:
        """Returns seconds until the next limit, or None without one."""


class EagerRun:
    """A run in the process of the caller: no limits, no broker, nobody who interrupts."""

    def __init__(self, queue: str, hostname: str) -> None:
        self.sequence = 0
        self.number = 0
        self.queue = queue
        self.claim = b""
        self.deliveries = 1
        self.crashes = 0
        self.hostname = hostname
        self.worker = ""
        self.is_eager = True
        self.interrupted: str | None = None
        self.tainted: str | None = None
        self.deliver: Callable[[BaseException], None] | None = None
        self.records: list[Record] = []
        self.error: BaseException | None = None
        """What the function raised, as it is."""

    def emit(self, record: Record) -> None:
        """Keeps the record."""
        self.records.append(record)

    def invoke(self, call: Callable[[], Any]) -> Any:
        """Calls the function."""
        return call()

    def shield(self) -> AbstractContextManager[None]:
        """Returns a context that does nothing."""
        return nullcontext()

    def time_left(self) -> float | None:
        """Returns None."""
        return None
