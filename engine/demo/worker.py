"""An engine of one's own for the length of a demo: started in a folder, waited for, and stopped, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

READY_TIMEOUT = 60.0
"""Seconds that an engine may take to start."""
STOP_TIMEOUT = 60.0
"""Seconds that an engine may take to end its running tasks."""
_COMMAND = (sys.executable, "-m", "engine.cli.main")
_LOG_LINES = 30


class DemoFailed(click.ClickException):
    """Something did not go as it should. The message says what, with the end of the engine's log if there is one."""


class Worker:
    """An ``engine start`` in a process of its own, with its files in ``folder``."""

    def __init__(self, config: Path, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._log = folder / "engine.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mapping[str, Any]:
        """Starts it and returns its status as soon as it runs. Raises DemoFailed if it does not."""
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for the demo, which then stops the engine.
            self._process = subprocess.Popen(
                [*_COMMAND, "start", "-c", str(self._config)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_TIMEOUT
        while time.monotonic() < deadline:
            if (code := self._process.poll()) is not None:
                raise DemoFailed(f"`engine start` ended with status {code}:\n{self.log_tail()}")
            status = self._status()
            if status.get("state") == "running":
                return status
            time.sleep(0.1)
        raise DemoFailed(f"`engine start` was not ready after {READY_TIMEOUT:.0f} s:\n{self.log_tail()}")

    def stop(self) -> None:
        """Stops it with ``engine stop``. Raises DemoFailed unless it ends by itself with status 0."""
        assert self._process is not None
        done = self._run("stop")
        if done.returncode != 0:
            raise DemoFailed(f"`engine stop` ended with status {done.returncode}: {done.stderr.strip()}")
        try:
            code = self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the engine is still there {STOP_TIMEOUT:.0f} s after `engine stop`") from None
        if code != 0:
            raise DemoFailed(f"the engine ended with status {code}:\n{self.log_tail()}")

    def end(self) -> None:
        """Leaves no process behind, however far it got."""
        for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, None)):
            if self._process is None or self._process.poll() is not None:
                return
            self._process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)

    def log_tail(self) -> str:
        """Returns the last lines of the engine's log."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:]) or "(it wrote no log)"

    def _status(self) -> Mapping[str, Any]:
        done = self._run("status", "--json")
        if done.returncode != 0:
            return {}
        answer: Mapping[str, Any] = json.loads(done.stdout)
        return answer

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*_COMMAND, *arguments, "-c", str(self._config)]
        return subprocess.run(
            command, cwd=self._folder, capture_output=True, text=True, timeout=STOP_TIMEOUT + 10, check=False
        )


@contextmanager
def running(config: Path, folder: Path) -> Iterator[Worker]:
    """Makes this process, and the engine to be started in it, work in ``folder`` with the settings of ``config``; ends
    the engine when the block is left in any way."""
    os.chdir(folder)
    os.environ.update(
        ENGINE_CONFIG=str(config),
        ENGINE_DEMO_INDEX=str(folder / "demo-index.db"),
        # Beside an engine of the same name that may be running on this host.
        ENGINE_RUNTIME_DIR=str(folder / "run"),
    )
    worker = Worker(config, folder)
    try:
        yield worker
    finally:
        worker.end()
