"""Prints what happens to tasks, a line for each event.

The hooks run in the dispatcher, in a thread of their own behind a bounded queue: one that is slow loses events, and
holds up no task. One that raises is logged, and does not stop the others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from engine.contract import Event, hookimpl


@hookimpl
def engine_worker_start(name: str, worker: str) -> None:
    """Says that the engine ``name`` is about to fetch; ``worker`` is new at each start."""
    _print(f"engine {name} starts (worker {worker})")


@hookimpl
def engine_events(events: Sequence[Event]) -> None:
    """Prints some events, oldest first."""
    _print(*map(line_of, events))


@hookimpl
def engine_worker_stop(name: str, worker: str) -> None:
    """Says that the engine has settled everything and ends."""
    _print(f"engine {name} ends")


def line_of(event: Event) -> str:
    """Returns one event as a line of text."""
    time = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds")
    words = [time, event.kind, event.task, event.id]
    if event.runtime is not None:
        words.append(f"{event.runtime:.3f} s")
    if event.reason:
        words.append(event.reason.splitlines()[0])
    return " ".join(words)


def _print(*lines: str) -> None:
    # One write for all: stderr is shared with the log of the engine, and with what tasks print.
    sys.stderr.write("".join(f"spool: {line}\n" for line in lines))
    sys.stderr.flush()
