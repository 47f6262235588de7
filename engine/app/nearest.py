"""The nearest known name for one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ``, did you mean "concurrency"?`` for the nearest of the known names, or "" when none is near."""
    close = difflib.get_close_matches(word, sorted(known), 1, 0.6)
    return f', did you mean "{close[0]}"?' if close else ""
