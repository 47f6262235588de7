"""A real worker for tests: supervisor, dispatcher and children, on a broker in its own memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.app.app import Engine
from engine.app.config.loader import load
from engine.app.connect import results_for, transport_for
from engine.app.discovery import find_app
from engine.testing.harness import EngineProcess, toml
from engine.testing.sent import Sent, WatchedClient

STOPS_IN = 10.0
"""Seconds after which a worker that does not stop is killed."""


class Worker:
    """A worker that runs, and the app that is connected to it."""

    def __init__(self, app: Engine, process: EngineProcess, sent: list[Sent]) -> None:
        self.app = app
        self.process = process
        """The engine: `engine.testing.harness.EngineProcess`."""
        self.sent = sent
        """What this process sent through the app."""

    @property
    def log(self) -> str:
        """All that it has logged, and its tasks have printed, so far."""
        return self.process.log

    def status(self) -> dict[str, Any]:
        """Returns what `engine status --json` shows."""
        return self.process.status()


@contextmanager
def worker(
    spec: str, *, concurrency: int = 2, broker: str = "memory://", results: str | None = None, rest: str = ""
) -> Iterator[Worker]:
    """Starts a worker for the app "package.module" or "package.module:variable", and stops it in the end.

    Inside of the ``with`` block the app of this process sends to it. ``results`` is the URL of the result backend;
    without it that of the broker. ``rest`` is TOML that is added to its configuration; ENGINE_* variables are not
    looked at. Raises AssertionError, with the worker's log, when it does not start; ConfigError when the app cannot be
    imported here.
    """
    app = find_app(spec)
    with _folder() as folder, app.borrowed():
        process = EngineProcess(folder, toml(spec, broker=broker, results=results, concurrency=concurrency, rest=rest))
        process.env = _environment(folder)
        try:
            process.start()
            app.configure(load(str(process.config), env={}).settings)
            app.task_always_eager = False
            app.eager_watch = None
            with _connected(app) as client:
                yield Worker(app, process, client.sent)
        finally:
            _end(process)


@contextmanager
def _connected(app: Engine) -> Iterator[WatchedClient]:
    with contextlib.ExitStack() as closing:
        transport = closing.enter_context(contextlib.closing(transport_for(app.settings)))
        results = results_for(app.settings)
        if results is not None:
            closing.callback(results.close)
        client = app.client = WatchedClient(app)
        client.use(transport, results)
        yield client


@contextmanager
def _folder() -> Iterator[Path]:
    # Not pytest's: the path of the control socket in it must be short.
    folder = Path(tempfile.mkdtemp(prefix="engine-test-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    """What can be imported here can be imported there; settings of this process are none of the worker's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")}
    paths = [str(folder), *(os.path.abspath(path or ".") for path in sys.path)]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _end(process: EngineProcess) -> None:
    """Ends the worker without waiting for the tasks that run."""
    with contextlib.suppress(ProcessLookupError, AssertionError):
        process.signal(signal.SIGQUIT)
        process.wait(STOPS_IN)
    process.close()
