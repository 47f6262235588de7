"""The wall clock, without its small steps backwards."""

from __future__ import annotations

import time

RESISTED = 60.0
"""A clock set back by less than this many seconds stands still until it has caught up; a larger step is believed."""


class Clock:
    """Tells the time to one lane: seconds since the epoch."""

    def __init__(self) -> None:
        self._last = 0.0

    def now(self) -> float:
        """Returns the time; earlier than before only if the clock was set back by more than `RESISTED`."""
        wall = time.time()
        if wall >= self._last or self._last - wall > RESISTED:
            self._last = wall
        return self._last
