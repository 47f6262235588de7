"""Real engines for tests: started as a process of their own, watched, killed, and checked to have left nothing behind.

An `EngineProcess` runs in a folder of its own, so that whatever it brings forth can be found by its current directory,
however its title or its parents change.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from engine.testing.faults import clock, points

T = TypeVar("T")
DEADLINE = 20.0
"""Seconds after which a state that a test waits for is taken to never come."""


def wait_for(condition: Callable[[], T], what: str, timeout: float = DEADLINE) -> T:
    """Waits until ``condition()`` is true, and returns what it returned. Raises AssertionError with ``what``."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout:g} s for: {what}"
        time.sleep(0.005)


class EngineProcess:
    """One `engine start`, in ``folder``, with ``toml`` as its configuration (``{folder}`` stands for the folder).

    ``wrapper``: a program, with its arguments, that becomes the engine: ``setpriv ...``, to run it as another user.
    """

    def __init__(
        self,
        folder: Path,
        toml: str,
        *,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        wrapper: Sequence[str] = (),
    ):
        self.folder = folder
        self.config = folder / "worker.toml"
        self.config.write_text(toml.replace("{folder}", str(folder)))
        self.log_path = folder / "engine.log"
        self.env = {**os.environ, "PYTHONPATH": _python_path(folder), **(env or {})}
        self.args = list(args)
        self.wrapper = list(wrapper)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True, stderr: Any = None, own_group: bool = False) -> EngineProcess:
        """Starts it, in a process group of its own if asked; with ``wait``, returns when it runs."""
        program = "engine.testing.faults" if {points.VARIABLE, clock.VARIABLE} & set(self.env) else "engine.cli.main"
        command = [*self.wrapper, sys.executable, "-m", program, "start", "-c", str(self.config), *self.args]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=stderr or log,
                stdin=subprocess.DEVNULL,
                start_new_session=own_group,
            )
        if wait:
            wait_for(self.is_running, "the engine to run")
        return self

    def is_running(self) -> bool:
        """Does it say that it runs, with all its children? Raises AssertionError with its log when it has exited."""
        assert self.process is not None, "start() comes first"
        assert self.process.poll() is None, f"the engine exited with {self.process.returncode}:\n{self.log}"
        status = self.try_ask("status")
        if status is None or status["state"] != "running":
            return False
        up = [row for row in status["slots"] if row["state"] != "starting"]
        return len(up) >= int(status["concurrency"])

    @property
    def pid(self) -> int:
        """The supervisor's pid."""
        assert self.process is not None, "start() comes first"
        return self.process.pid

    @property
    def log(self) -> str:
        """All it has logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def ask(self, verb: str) -> dict[str, Any]:
        """Asks through the control socket. Raises OSError when nobody listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(self._socket_path()))
            sock.send(json.dumps({"verb": verb}).encode())
            answer: dict[str, Any] = json.loads(sock.recv(1 << 20))
            return answer

    def try_ask(self, verb: str) -> dict[str, Any] | None:
        """As `ask`; None when nobody listens or answers."""
        try:
            return self.ask(verb)
        except (OSError, ValueError):
            return None

    def status(self) -> dict[str, Any]:
        """Returns what it says of itself."""
        return self.ask("status")

    def pid_of(self, role: str) -> int:
        """Returns the pid of the newest process of a role: "dispatcher", "template"."""
        pids: list[int] = [row["pid"] for row in self.status()["processes"] if row["role"] == role]
        return pids[-1]

    def children(self) -> list[dict[str, Any]]:
        """Returns the slots that are taken."""
        slots: list[dict[str, Any]] = self.status()["slots"]
        return slots

    def running(self, task: str) -> list[dict[str, Any]]:
        """Returns the slots that run a task of that name."""
        return [row for row in self.children() if row["task"] == task]

    def signal(self, number: int) -> None:
        """Sends a signal to the supervisor."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = DEADLINE) -> int:
        """Waits until it has exited; returns the exit status."""
        assert self.process is not None, "start() comes first"
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the engine did not exit in {timeout:g} s:\n{self.log}") from None

    def stop(self, timeout: float = DEADLINE) -> int:
        """Drains it (TERM) and returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill_tree(self) -> None:
        """Kills (SIGKILL) every process of it at once, and waits until they are gone."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process is not None:
            self.process.wait(DEADLINE)
        wait_for(lambda: not self.processes(), "the killed processes to be gone")

    def processes(self) -> list[psutil.Process]:
        """Returns every other living process whose current directory is this engine's folder."""
        found = []
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(self.folder):
                    found.append(process)
        return found

    def assert_nothing_left(self) -> None:
        """Checks that it is gone with all it brought forth: processes, control socket."""
        wait_for(lambda: not self.processes(), f"no process to be left: {self.processes()}", 5.0)
        assert not self._socket_path().exists(), "the control socket is left"

    def close(self) -> None:
        """Ends whatever is left of it. For fixtures."""
        self.kill_tree()

    def _socket_path(self) -> Path:
        return next(self.folder.glob("run/*.sock"), self.folder / "run" / "none.sock")


def _python_path(folder: Path) -> str:
    return os.pathsep.join(
        [str(folder), *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)]
    )


def toml(
    app: str,
    *,
    broker: str = "sqlite:///engine.db",
    results: str | None = None,
    concurrency: int = 2,
    worker: str = "",
    rest: str = "",
) -> str:
    """Returns a configuration for tests: runtime files and database in the engine's own folder, late acks. Without
    ``results`` they are kept at the broker's URL."""
    return f"""
[engine]
name = "test"
app = "{app}"
runtime_dir = "{{folder}}/run"

[broker]
url = "{broker}"

[results]
url = "{results or broker}"

[worker]
concurrency = {concurrency}
dead_after = "1s"
{worker}

[tasks]
acks_late = true

{rest}
"""
