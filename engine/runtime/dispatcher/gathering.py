"""Runs in the dispatcher: how long the main lane lets outcomes gather before it looks. Pure: no clock, no I/O.

A turn of the main lane costs about as much for one outcome as for thirty, and behind each come a turn of the settle
lane and one of the broker. With fast tasks and a few children it would go round for every outcome.
"""

from __future__ import annotations

from engine.runtime.dispatcher.prefetch import HORIZON

LONGEST = 0.001
"""Seconds that it waits at most."""
FEW = 2
"""Outcomes that must be expected in that time: for fewer it is not worth it."""
ENOUGH = 32
"""Outcomes that make a good turn: it need not wait for more."""
QUIET = 0.1
"""Seconds after a call during which it does not wait: who called, or the next who does, waits for the answer."""


class Gathering:
    """Says how long to wait. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._called = -QUIET

    def called(self, now: float) -> None:
        """Says that a child or a client asked for something, and waits for the answer."""
        self._called = now

    def pause(self, rate: int, in_socket: int, now: float) -> float:
        """Returns how long to wait now, when ``rate`` runs ended within `HORIZON`. Nothing while no packets lie in the
        socket: then children may wait for this lane."""
        if not in_socket or rate * LONGEST < FEW * HORIZON or now - self._called < QUIET:
            return 0.0
        return min(LONGEST, ENOUGH * HORIZON / rate)
