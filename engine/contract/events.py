"""What observers are told: one event for each step in a task's life, made in the dispatcher.

Times are seconds since the epoch, durations seconds.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal[
    "received", "started", "succeeded", "failed", "retried", "revoked", "released", "lost", "dead"
]


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step in one task's life.

    ``received``: claimed by this worker. ``started``: a child has begun it (told with its end, unless
    ``track_started``). ``lost``: its process died. ``released``: given back to the broker. ``dead``: dead-lettered.
    """

    kind: Kind
    time: float
    task: str
    id: str
    queue: str = ""
    retries: int = 0
    deliveries: int = 1
    runtime: float | None = None
    child: int | None = None
    """Process id of the child."""
    reason: str | None = None
