"""Durations, sizes and rates as people write them: "4m30s", "512MB", "10/m"."""

from __future__ import annotations

import math
import re
from datetime import timedelta

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
"""Units of sizes, in bytes."""
_BYTES = {"B": 1, **{unit.upper(): factor for unit, factor in UNITS.items()}}
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*([smh]))?")

DURATION = 'a duration: a number of seconds, or text such as "90s", "4m30s", "500ms", "1.5h", "1d"'
SIZE = 'a size: a number of bytes, or text such as "512MB" (10^6) or "512MiB" (2^20)'
RATE = 'a rate: a number per second, or text such as "10/s", "100/m", "5/h"'


def seconds(value: float | timedelta | str) -> float:
    """Returns a duration in seconds. Text has the units ms, s, m, h, d and w, in any combination; without a unit it is
    seconds. Raises ValueError, saying what is accepted, for anything else, for negative and for endless durations."""
    result = _seconds(value)
    if result is None or result < 0 or not math.isfinite(result):
        raise ValueError(f"{value!r} is not {DURATION}")
    return result


def size(value: int | str) -> int:
    """Returns a size in bytes. KB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB are powers of 1024; upper and
    lower case are the same. Raises ValueError, saying what is accepted, for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return int(value)
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        factor = _BYTES.get(match[2].upper())
        if factor is not None:
            return int(float(match[1]) * factor)
    raise ValueError(f"{value!r} is not {SIZE}")


def rate(value: float | str) -> float:
    """Returns a rate as starts per second. Raises ValueError, saying what is accepted, for anything else and for 0."""
    result = _rate(value)
    if result is None or result <= 0 or not math.isfinite(result):
        raise ValueError(f"{value!r} is not {RATE}")
    return result


def brief(duration: float) -> str:
    """Returns a duration in seconds as short text for people: "250ms", "4m30s", "1d2h" (two units, rounded down)."""
    if duration < 1:
        return f"{duration * 1000:.0f}ms" if duration else "0s"
    if duration < 60:
        return f"{duration:.3g}s"
    parts = _parts(int(duration))
    first = next(i for i, (count, _) in enumerate(parts) if count)
    return "".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count)


def exact(duration: float) -> str:
    """Returns a duration in seconds as text that `seconds` reads as the same number: "1d2h3m4s", "0.25s"."""
    if duration != int(duration):
        return f"{duration!r}s"
    return "".join(f"{count}{unit}" for count, unit in _parts(int(duration)) if count) or "0s"


def _parts(duration: int) -> list[tuple[int, str]]:
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, duration = divmod(duration, int(_SECONDS[unit]))
        parts.append((count, unit))
    return parts


def _seconds(value: float | timedelta | str) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _rate(value: float | str) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(match[1]) / _SECONDS[match[2] or "s"] if match else None
