"""Runs in the supervisor: the control socket, through which `engine status`, `stop` and `reload` ask.

A SEQPACKET socket in a folder of the user's own; one JSON object a packet, one reply each. A client that says "relay"
is handed to the dispatcher with its connection. Nobody is waited for: who does not read its reply loses it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import AlreadyRunning

log = logging.getLogger("engine.supervisor")
REQUEST_MAX = 65536
CLIENTS_MAX = 64
"""Connections that are kept open; further ones wait in the listener's backlog."""
REMIND = 60.0
"""Seconds between two log lines about connections that cannot be taken."""
Answer = dict[str, Any]
Relay = Callable[[], Answer | Callable[[socket.socket], None]]
"""Returns a refusal, or what gives a connection to the dispatcher."""


class ControlSocket:
    """Listens at ``path`` and answers with what the verb's function returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._clients: dict[int, socket.socket] = {}
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        """A descriptor in reserve, given up for a moment when this process can open no file any more: a connection that
        is not accepted would wake the loop again at once, without end."""
        self._told = -REMIND

    def listen(self) -> None:
        """Takes the name. The caller holds the lock on it, so a socket that is there is a stale one."""
        self.path.unlink(missing_ok=True)
        try:
            self._listener.bind(str(self.path))
        except OSError as error:
            raise AlreadyRunning(f"cannot listen at {self.path}: {error.strerror}") from None
        self.path.chmod(0o600)
        self._listener.listen(64)

    def fds(self) -> list[int]:
        """Returns the descriptors to poll for reading."""
        listener = [self._listener.fileno()] if len(self._clients) < CLIENTS_MAX else []
        return listener + list(self._clients)

    def serve(self, fd: int, verbs: dict[str, Callable[[], Answer]], relay: Relay) -> None:
        """Takes a connection, or answers one request."""
        if fd == self._listener.fileno():
            self._accept()
        elif fd in self._clients:
            self._answer(self._clients[fd], verbs, relay)

    def close(self) -> None:
        """Gives the name up."""
        self.path.unlink(missing_ok=True)
        for client in self._clients.values():
            client.close()
        self._listener.close()
        os.close(self._spare)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            self._turn_away(error)
            return
        _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.getuid()):
            client.close()
            return
        self._clients[client.fileno()] = client

    def _turn_away(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._told >= REMIND:
            self._told = now
            log.warning("a connection to the control socket cannot be taken: %s", error)
        os.close(self._spare)
        with suppress(OSError):
            self._listener.accept()[0].close()
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _answer(self, client: socket.socket, verbs: dict[str, Callable[[], Answer]], relay: Relay) -> None:
        try:
            data = client.recv(REQUEST_MAX, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        verb = _verb(data)
        if verb == "relay":
            self._relay(client, relay())
        elif verb in verbs:
            self._reply(client, verbs[verb]())
        else:
            known = ", ".join([*verbs, "relay"])
            self._reply(client, {"ok": False, "error": f"unknown verb {verb!r}; there are: {known}"})

    def _relay(self, client: socket.socket, answer: Answer | Callable[[socket.socket], None]) -> None:
        # The reply comes first: once the dispatcher has the connection, only it writes there.
        if not callable(answer):
            self._reply(client, answer)
        elif self._reply(client, {"ok": True}):
            answer(client)
        self._drop(client)

    def _reply(self, client: socket.socket, answer: Answer) -> bool:
        try:
            client.send(json.dumps(answer).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            self._drop(client)
            return False
        return True

    def _drop(self, client: socket.socket) -> None:
        if self._clients.pop(client.fileno(), None) is not None:
            client.close()


def _verb(data: bytes) -> str:
    try:
        request = json.loads(data)
    except ValueError:
        return ""
    verb = request.get("verb") if isinstance(request, dict) else None
    return verb if isinstance(verb, str) else ""
