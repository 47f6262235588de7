"""The app whose tasks the tests of the testing help test."""

from __future__ import annotations

import os
from datetime import date
from typing import Any

from engine import Engine, Ignore

app = Engine("shop")
stock = {"apple": 3}


class PaymentDown(Exception):
    """The payment service does not answer."""


class Payments:
    """Stands for a service elsewhere: fails as often as a test says."""

    failures = 0

    def charge(self, cents: int) -> int:
        """Charges somebody."""
        if Payments.failures:
            Payments.failures -= 1
            raise PaymentDown("no answer")
        return cents


@app.task(bind=True, autoretry_for=(PaymentDown,), retry_backoff=30, retry_jitter=False, max_retries=4)
def charge(self: Any, customer: int, cents: int = 100) -> str:
    """Charges a customer, and has the receipt sent."""
    self.update_state(state="CHARGING", meta={"cents": cents})
    paid = Payments().charge(cents)
    receipt.apply_async((customer, paid), countdown=600, queue="mail")
    return f"{customer} paid {paid}"


@app.task
def receipt(customer: int, cents: int, day: date | None = None) -> str:
    """Sends a receipt."""
    return f"{customer}: {cents} on {type(day).__name__}"


@app.task(expires=60)
def remind(customer: int) -> int:
    """Reminds a customer, within a minute or never."""
    return customer


@app.task
def skip() -> None:
    """Leaves no state."""
    raise Ignore


@app.task
def fail() -> None:
    """Fails."""
    raise ValueError("no apples")


@app.task
def where() -> int:
    """Says in which process it runs."""
    return os.getpid()
