"""The client of the control socket: asks a running engine on this host."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from pathlib import Path
from typing import Any

from engine.app.config.folders import socket_path
from engine.app.settings import Settings
from engine.errors import EngineError, NotRunning

ANSWER_TIMEOUT = 5.0
"""Seconds within which a supervisor, which never waits for anything, has answered."""
_ANSWER_MAX = 1 << 20


def ask(settings: Settings, verb: str) -> dict[str, Any]:
    """Sends one verb and returns the answer. Raises NotRunning when no engine of that name answers, and EngineError
    with the reason when the engine refuses."""
    path = socket_path(settings)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as sock:
        sock.settimeout(ANSWER_TIMEOUT)
        try:
            sock.connect(str(path))
        except OSError:
            raise NotRunning(_nobody(settings.engine.name, path)) from None
        try:
            sock.send(json.dumps({"verb": verb}).encode())
            data = sock.recv(_ANSWER_MAX)
        except TimeoutError:
            raise NotRunning(f"the engine {settings.engine.name!r} does not answer at {path}") from None
        except OSError:
            data = b""
    if not data:
        raise NotRunning(f"the engine {settings.engine.name!r} ended while it was asked")
    answer: dict[str, Any] = json.loads(data)
    if not answer.get("ok"):
        raise EngineError(str(answer.get("error", "refused without a reason")))
    return answer


class Watched:
    """A process whose end is waited for. The pidfd is taken while the process is known to be the engine, so that a pid
    that is used again cannot be mistaken for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._fd: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = None

    def gone(self, timeout: float | None) -> bool:
        """Waits until the process has ended, at most ``timeout`` s (None: as long as it takes); False: it has not."""
        if self._fd is None:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def end(settings: Settings, quick: bool, timeout: float | None) -> int | None:
    """Asks the engine to stop, and waits until its process is gone. Returns its pid, or None when it has not ended
    within ``timeout`` s. Raises NotRunning."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pid = int(ask(settings, "ping")["pid"])
    watched = Watched(pid)
    try:
        # It may end between the two questions: then it is gone all the same.
        with contextlib.suppress(NotRunning):
            ask(settings, "quit" if quick else "stop")
        gone = watched.gone(None if deadline is None else deadline - time.monotonic())
    finally:
        watched.close()
    return pid if gone else None


def _nobody(name: str, path: Path) -> str:
    others = sorted(other.stem for other in path.parent.glob("*.sock") if other.stem != name and _listens(other))
    hint = f"; running: {', '.join(others)} (give --name)" if others else ": start it with `engine start`"
    return f"no engine {name!r} is running on this host (nobody answers at {path}){hint}"


def _listens(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as sock:
        return sock.connect_ex(str(path)) == 0
