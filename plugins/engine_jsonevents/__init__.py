"""An observer that writes one line of JSON for each step in a task's life. See README.md.

It runs in the dispatcher, in the observers' thread: writing may take its time, no task waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from engine.contract import Event, hookimpl
from engine_jsonevents.lines import Lines

FILE = "ENGINE_JSONEVENTS_FILE"
"""The variable that names the file; without it the lines go to stderr."""


class _Plugin:
    """What this process writes to. Opened at the first line, so in the dispatcher only."""

    def __init__(self) -> None:
        self.lines: Lines | None = None
        self.engine = ""

    def write(self, rows: Sequence[object]) -> None:
        if self.lines is None:
            self.lines = Lines(os.environ.get(FILE))
        self.lines.write(rows)


_plugin = _Plugin()


@hookimpl
def engine_worker_start(name: str, worker: str) -> None:
    """Writes that the worker starts; keeps the engine's name for all later lines."""
    _plugin.engine = name
    _plugin.write([{"event": "worker_started", "engine": name, "worker": worker}])


@hookimpl
def engine_worker_stop(name: str, worker: str) -> None:
    """Writes that the worker stops."""
    _plugin.write([{"event": "worker_stopped", "engine": name, "worker": worker}])


@hookimpl
def engine_events(events: Sequence[Event]) -> None:
    """Writes the events, some at a time. Raises OSError when that fails; the engine logs it."""
    _plugin.write([line_of(event, _plugin.engine) for event in events])


def line_of(event: Event, engine: str) -> dict[str, object]:
    """Returns what is written of an event: ``kind`` as "event", times as they are, nothing that is not known."""
    fields = {name: value for name, value in msgspec.structs.asdict(event).items() if value not in (None, "")}
    return {"event": fields.pop("kind"), "time": fields.pop("time"), "engine": engine, **fields}
