"""What verbs print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

STATE_COLOURS = {
    "SUCCESS": "green",
    "running": "green",
    "FAILURE": "red",
    "REVOKED": "yellow",
    "RETRY": "yellow",
    "draining": "yellow",
    "paused": "yellow",
    "dead": "red",
}


def in_colour() -> bool:
    """Is stdout a terminal, and has nobody asked for no colours (NO_COLOR, TERM=dumb)?"""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, **style: Any) -> str:
    """Returns the text in a style, on a terminal."""
    return click.style(text, **style) if in_colour() else text


def state(word: str) -> str:
    """Returns the name of a state in its colour."""
    return styled(word, fg=STATE_COLOURS[word]) if word in STATE_COLOURS else word


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows in columns. Numbers stand to the right; None is empty."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(click.unstyle(line[i])) for line in [list(headers), *cells]) for i in range(len(headers))]
    right = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(headers))]
    click.echo(styled(_line(headers, widths, right), bold=True))
    for line in cells:
        click.echo(_line(line, widths, right))


def as_json(value: object) -> None:
    """Prints a value as JSON, one line to a value."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def counted(number: int, noun: str) -> str:
    """Returns "1 message", "2 messages"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def moment(epoch: float) -> str:
    """Returns a time, in seconds since the epoch, as local time with its offset."""
    try:
        return datetime.fromtimestamp(epoch).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{epoch:.0f}"


def header(body: bytes) -> dict[str, Any]:
    """Returns what can be read of a message (its task, id, ...): {} when it is no JSON object, or was cut."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, width, to_right in zip(cells, widths, right, strict=True):
        space = " " * (width - len(click.unstyle(cell)))
        padded.append(space + cell if to_right else cell + space)
    return "  ".join(padded).rstrip()
