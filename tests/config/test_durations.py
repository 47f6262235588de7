"""Durations, sizes and rates as people write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.app.config.durations import brief, exact, rate, seconds, size


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0, 0.0),
        (90, 90.0),
        (1.5, 1.5),
        (timedelta(minutes=2, milliseconds=5), 120.005),
        ("90", 90.0),
        ("90s", 90.0),
        ("4m30s", 270.0),
        ("4m 30s", 270.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        ("1d", 86400.0),
        ("1w", 604800.0),
        (" 2m ", 120.0),
    ],
)
def test_durations(written: Any, meant: float) -> None:
    assert seconds(written) == pytest.approx(meant)


@pytest.mark.parametrize(
    "written", ["", "s", "5x", "4m30", "-5s", "1h-3m", "one hour", -1, True, None, [], float("nan"), float("inf")]
)
def test_what_is_no_duration_says_what_is(written: Any) -> None:
    with pytest.raises(ValueError, match=r'is not a duration: .*"90s", "4m30s"'):
        seconds(written)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0, 0),
        (512, 512),
        ("512", 512),
        ("512B", 512),
        ("512MB", 512_000_000),
        ("512mb", 512_000_000),
        ("16MiB", 16 * 2**20),
        ("1.5GiB", 1.5 * 2**30),
        ("2 KB", 2000),
        ("1TB", 10**12),
    ],
)
def test_sizes(written: Any, meant: float) -> None:
    assert size(written) == meant


@pytest.mark.parametrize("written", ["", "MB", "5XB", "5M", "-5MB", -5, 1.5, True, None])
def test_what_is_no_size_says_what_is(written: Any) -> None:
    with pytest.raises(ValueError, match=r'is not a size: .*"512MB" \(10\^6\)'):
        size(written)


@pytest.mark.parametrize(
    ("written", "meant"), [(2, 2.0), (0.5, 0.5), ("10", 10.0), ("10/s", 10.0), ("90/m", 1.5), ("36 / h", 0.01)]
)
def test_rates(written: Any, meant: float) -> None:
    assert rate(written) == pytest.approx(meant)


@pytest.mark.parametrize("written", ["", "0/s", 0, -1, "5/d", "m", True, None])
def test_what_is_no_rate_says_what_is(written: Any) -> None:
    with pytest.raises(ValueError, match=r'is not a rate: .*"10/s"'):
        rate(written)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (9, "9s"),
        (59.5, "59.5s"),
        (270, "4m30s"),
        (3600, "1h"),
        (86400 + 7200 + 5, "1d2h"),
        (3601, "1h"),
    ],
)
def test_durations_for_people(duration: float, text: str) -> None:
    assert brief(duration) == text


@given(st.integers(0, 10**7) | st.floats(0.001, 10**6))
def test_an_exact_duration_is_read_as_the_same_number(duration: float) -> None:
    assert seconds(exact(duration)) == duration


@given(st.integers(1, 10**7))
def test_a_brief_duration_is_rounded_down_to_two_units(duration: int) -> None:
    assert duration * 0.95 < seconds(brief(duration)) <= duration
