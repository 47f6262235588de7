"""What a process must let go of when it was forked."""

from __future__ import annotations

import os
from collections.abc import Callable


def after_fork(call: Callable[[], None]) -> None:
    """Has ``call`` called, for the rest of this program, in every process that was just forked. Does nothing where
    there is no fork (Windows)."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)
