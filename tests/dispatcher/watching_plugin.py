"""An observer for tests: writes what it hears into the file named by WATCHED. Loaded as a plugin file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from engine.contract.events import Event
from engine.contract.hookspecs import hookimpl


def _write(line: str) -> None:
    with open(os.environ["WATCHED"], "a") as file:
        file.write(line + "\n")


@hookimpl
def engine_worker_start(name: str, worker: str) -> None:
    _write(f"start {name} {worker}")


@hookimpl
def engine_worker_stop(name: str, worker: str) -> None:
    _write(f"stop {name} {worker}")


@hookimpl
def engine_events(events: Sequence[Event]) -> None:
    for event in events:
        _write(f"{event.kind} {event.id}")
    if any(event.id == "bad" for event in events):
        raise ValueError("an observer that fails")
