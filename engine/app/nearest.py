"""The nearest known name for one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONG_ENOUGH = 3
"""A word of so many letters is taken for the beginning of a longer name."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ``, did you mean "concurrency"?`` for the nearest of the known names, or "" when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1, 0.6) or [
        name for name in names if len(word) >= LONG_ENOUGH and name.startswith(word)
    ]
    return f', did you mean "{close[0]}"?' if close else ""
