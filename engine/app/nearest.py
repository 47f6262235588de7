"""The nearest known name for one that is not known."""

from __future__ import annotations

from collections.abc import Iterable

LONG_ENOUGH = 3
"""A word of so many letters is taken for the beginning of a longer name."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ``, did you mean "concurrency"?`` for the nearest of the known names, or "" when none is near."""
    names = sorted(known)
    close = (
        next((name for name in names if name.endswith(f".{word}")), None)
        or nearest(word, names, 0.6)
        or next((name for name in names if len(word) >= LONG_ENOUGH and name.startswith(word)), None)
    )
    return f', did you mean "{close}"?' if close else ""


def nearest(word: str, names: Iterable[str], alike: float) -> str | None:
    """Returns the name that is most like the word, by at least ``alike`` (0..1), if there is one."""
    import difflib  # late: of those who import this, hardly one ever needs it

    return next(iter(difflib.get_close_matches(word, sorted(names), 1, alike)), None)
