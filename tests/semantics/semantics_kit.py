"""What the tasks of the semantics tests are made with: the app, its ledger, its gates, exceptions and hooks."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from datetime import date
from decimal import Decimal

from engine import Engine, Task

app = Engine("semantics")
log = logging.getLogger("my.own")


def note(*words: object) -> None:
    """Appends one line to the ledger, in one write."""
    fd = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


def gate(name: str) -> bool:
    """Has the test opened this gate?"""
    return os.path.exists(f"gate-{name}")


def hold(name: str) -> None:
    """Waits at a gate, for half a minute at most."""
    end = time.monotonic() + 30
    while not gate(name) and time.monotonic() < end:
        time.sleep(0.005)


class Sour(Exception):
    """An error of the tasks' own."""


class Sweet(Sour):
    """One that is not retried."""


class Strange(BaseException):
    """One that no `except Exception` catches."""


class Unfit:
    """No codec carries it."""


@dataclasses.dataclass
class Parcel:
    """An argument with types of its own."""

    day: date
    price: Decimal


class Hooked(Task):
    """Writes each of its hooks into the ledger."""

    def before_start(self, task_id, args, kwargs):
        note("before_start", task_id, os.getpid())

    def on_success(self, retval, task_id, args, kwargs):
        note("on_success", task_id, retval)

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        note("on_retry", task_id, type(exc).__name__)

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        note("on_failure", task_id, type(exc).__name__, os.getpid())

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        note("after_return", task_id, status)
