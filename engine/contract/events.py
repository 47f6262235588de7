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
    ``track_started``), once for each run, whatever its end. ``lost``: its process died, and it runs again.
    ``released``: given back to the broker. ``dead``: dead-lettered. The end of a run that raised `Ignore` has no event.
    """

    kind: Kind
    time: float
    task: str
    id: str
    queue: str = ""
    retries: int = 0
    deliveries: int = 1
    runtime: float | None = None
    """Seconds that the run took; None: it was not begun here."""
    child: int | None = None
    """Process id of the child that ran it; None: it was not begun here."""
    reason: str | None = None
