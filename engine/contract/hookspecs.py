"""Every hook of the engine: the table of contents of what a plugin can be.

A plugin is a module with functions of these names, marked ``@hookimpl``. Entry-point groups: ``engine.transports`` and
``engine.results`` (the entry's name is the URL scheme; loaded when a URL asks for it) and ``engine.plugins`` (observers
and codecs; loaded when ``[plugins] enable`` names it). ``[plugins] load = ["./file.py"]`` runs one unpackaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from engine.contract.codec import Codec
from engine.contract.events import Event
from engine.contract.results import ResultBackend
from engine.contract.transport import Transport

PROJECT = "engine"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def engine_transport(scheme: str) -> type[Transport] | None:
    """Returns the transport for URLs of this scheme, or None. Called once in each process that opens the broker."""
    raise NotImplementedError


@hookspec(firstresult=True)
def engine_results(scheme: str) -> type[ResultBackend] | None:
    """Returns the result backend for URLs of this scheme, or None. Called once in each process that opens it."""
    raise NotImplementedError


@hookspec
def engine_codecs() -> Sequence[Codec]:
    """Returns codecs beyond the built-in ones, by their names. Called once in each process that loads plugins."""
    raise NotImplementedError


@hookspec
def engine_worker_start(name: str, worker: str) -> None:
    """The dispatcher of engine ``name`` (incarnation ``worker``) is about to fetch. Runs in the observers' thread."""


@hookspec
def engine_worker_stop(name: str, worker: str) -> None:
    """The dispatcher has settled everything and ends. Runs in the observers' thread."""


@hookspec
def engine_events(events: Sequence[Event]) -> None:
    """Tells what happened to tasks, some at a time. The steps of a run come in order; a message that comes back at once
    may be received before the end of its last run is told (``deliveries`` and ``retries`` name the run). Runs in the
    observers' thread behind a bounded queue that drops (and counts) what an observer is too slow for: nothing here can
    hold up a task."""
