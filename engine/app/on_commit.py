"""Sending when a Django transaction has committed. Django is only looked at when somebody asks for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from engine.errors import ConfigError


def when_committed(call: Callable[[], Any], using: str | None = None) -> None:
    """Makes the call when the current transaction of the database ``using`` (None: Django's default) commits; at once
    without one; never when it rolls back. Raises ConfigError without Django."""
    try:
        transaction = importlib.import_module("django.db.transaction")
    except ModuleNotFoundError:
        raise ConfigError(
            "delay_on_commit waits for a transaction of Django, which is not installed: use delay(), "
            "or pip install 'prefork-engine[django]'"
        ) from None
    transaction.on_commit(call, using=using)
