"""Brokers to run tasks on, and to kill: private servers on ports and in folders of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from engine.errors import ConfigError

DEADLINE = 60.0
"""Seconds in which a server must come up."""


class Broker:
    """Where the messages are. This one needs no server: ``memory`` or ``sqlite``."""

    restarts = False
    """Can it be killed and started again?"""

    def __init__(self, transport: str, folder: Path) -> None:
        self.folder = folder
        self.url = "memory://" if transport == "memory" else f"sqlite:///{folder}/engine.db"
        self.results = self.url

    def start(self) -> None:
        """Starts the server, and returns when it answers."""

    def kill(self) -> None:
        """Kills it (SIGKILL)."""

    def close(self) -> None:
        """Ends it for good."""


class Server(Broker):
    """A broker that is a process, in a folder of its own."""

    restarts = True

    def __init__(self, folder: Path) -> None:
        # Not the engine's own folder: what runs there counts as the engine's.
        self.folder = folder / "server"
        self.folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """Kills it (SIGKILL)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Stops it (SIGSTOP): it hangs, and its connections stay."""
        assert self.process is not None, "start() comes first"
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        assert self.process is not None, "start() comes first"
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends it for good."""
        self.kill()

    def _spawn(self, command: list[str], env: dict[str, str] | None = None, *, own_session: bool = False) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=env,
                start_new_session=own_session,
            )

    def _await(self, what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not self.answers():
            gone = self.process is None or self.process.poll() is not None
            if gone or time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come up: {(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.01)

    def answers(self) -> bool:
        """Does it serve?"""
        raise NotImplementedError


class Redis(Server):
    """A redis-server with an append-only file, so that what it has acknowledged survives its death.

    It never waits for the disk. With ``appendfsync everysec``, Redis' default, it holds a write back for up to two
    seconds while the flush before it lasts, and has acknowledged it meanwhile: on a busy disk that is lost with the
    process. Without flushes each write is the kernel's before its answer is sent, and only a host's death loses it.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """``durable``: False leaves the file out; then its death loses all that it has. Raises ConfigError when the
        program is missing."""
        super().__init__(folder)
        self._durable = durable
        self.url = self.results = f"redis://127.0.0.1:{self.port}/0"
        self._program = need("redis-server")

    def start(self) -> None:
        """Starts it, and returns when it has loaded its data."""
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "save": "",
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "no",
        }
        self._spawn([self._program, *(str(word) for name, value in options.items() for word in (f"--{name}", value))])
        self._await("redis-server")

    def answers(self) -> bool:
        """Does it answer a PING?"""
        return self.ask(b"PING\r\n").startswith(b"+PONG")

    def ask(self, command: bytes) -> bytes:
        """Sends an inline command; returns the first part of the reply, empty when there is none."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as link:
            link.sendall(command)
            return link.recv(4096)
        return b""


def broker(transport: str, folder: Path) -> Broker:
    """Returns a broker for ``transport`` that keeps its data in ``folder``. Raises ConfigError when it needs a program
    that is not installed."""
    if transport in ("memory", "sqlite"):
        return Broker(transport, folder)
    if transport == "redis":
        return Redis(folder)
    if transport == "rabbitmq":
        from engine.testing.faults.rabbitmq import Rabbit  # it is a `Server` of this file

        return Rabbit(folder)
    raise ConfigError(f"no broker to start for {transport!r}: there are memory, sqlite, redis and rabbitmq")


def free_port() -> int:
    """Returns a port that nobody listens at, below those that the kernel gives to clients."""
    while True:
        port = 20000 + int.from_bytes(os.urandom(2), "big") % 10000
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def search_path() -> str:
    """Returns where the programs of servers are: also where Debian keeps those that are none of a user's."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/lib/rabbitmq/bin"


def need(program: str) -> str:
    """Returns the path of a program. Raises ConfigError when it is not installed."""
    path = shutil.which(program, path=search_path())
    if path is None:
        raise ConfigError(f"{program} is not installed: scripts/servers installs it")
    return path
