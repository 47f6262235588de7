"""Database connections in a worker: none is inherited by a fork, none outlives what Django allows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import db

from engine import current_task


def around_task(call: Callable[[], Any]) -> Any:
    """Runs a task as Django runs a request: with a fresh log of queries, and with connections that are closed when they
    are older than CONN_MAX_AGE, or broken."""
    db.reset_queries()
    db.close_old_connections()
    try:
        return call()
    finally:
        # A limit must not strike while a connection is half closed.
        with current_task.shield():
            db.close_old_connections()


def close_idle() -> None:
    """Closes all connections but those in a transaction.

    Called when all task modules are imported: the template's children must not share a socket, and no transaction is
    open there; the transaction of a test that imports them goes on.
    """
    for connection in db.connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
