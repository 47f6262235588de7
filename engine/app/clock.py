"""The time of day in the app layer: one place, so that tests can let hours pass at once (`engine.testing.eager`)."""

from __future__ import annotations

import time
from collections.abc import Callable

now: Callable[[], float] = time.time
"""Returns seconds since the epoch. Always called as ``clock.now()``: it may be replaced."""
