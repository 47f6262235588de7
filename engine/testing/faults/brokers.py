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

import psutil

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

    def _spawn(self, command: list[str], env: dict[str, str] | None = None) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=env
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
    """A redis-server with an append-only file, so that what it has acknowledged survives its death."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = self.results = f"redis://127.0.0.1:{self.port}/0"
        self._program = need("redis-server")

    def start(self) -> None:
        """Starts it, and returns when it has loaded its data."""
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": "", "appendonly": "yes"}
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


class Rabbit(Server):
    """A RabbitMQ node with its own epmd, cookie and data. Results are kept in SQLite, so that the engine can tell what
    was delivered again from what was not run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"
        self.results = f"sqlite:///{folder}/results.db"
        self._distribution, self._mapper_port = free_port(), free_port()
        self._program = _rabbit_program()
        self._mapper = need("epmd")
        self._epmd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and returns when it serves."""
        (self.folder / "plugins").write_text("[].")
        (self.folder / "environment").touch()
        (self.folder / "rabbitmq.conf").write_text("loopback_users = none\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(os.urandom(10).hex())
            cookie.chmod(0o400)
        if self._epmd is None:
            self._epmd = subprocess.Popen(
                [self._mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1"], env=self._env, cwd=self.folder
            )
        self._spawn([self._program], self._env)
        self._await("rabbitmq-server")

    def kill(self) -> None:
        """Kills the whole node (SIGKILL): the Erlang machine is a child of the script."""
        if self.process is not None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Ends it for good, with its epmd."""
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def answers(self) -> bool:
        """Does it greet who says nothing sensible? (It answers with the protocol's name.)"""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as link:
            link.sendall(b"AMQP\x00\x00\x00\x00")
            return link.recv(8).startswith(b"AMQP")
        return False

    @property
    def _env(self) -> dict[str, str]:
        folder = str(self.folder)
        return {
            "PATH": _search_path(),
            "LANG": "C.UTF-8",
            "HOME": folder,
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"chaos{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": f"{folder}/db",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/environment",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }


def _rabbit_program() -> str:
    # What lies on the path of a Debian changes the user first.
    inner = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(inner) if inner.exists() else need("rabbitmq-server")


def _search_path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/lib/rabbitmq/bin"


def broker(transport: str, folder: Path) -> Broker:
    """Returns a broker for ``transport`` that keeps its data in ``folder``. Raises ConfigError when it needs a program
    that is not installed."""
    if transport in ("memory", "sqlite"):
        return Broker(transport, folder)
    if transport == "redis":
        return Redis(folder)
    if transport == "rabbitmq":
        return Rabbit(folder)
    raise ConfigError(f"no broker to start for {transport!r}: there are memory, sqlite, redis and rabbitmq")


def free_port() -> int:
    """Returns a port that nobody listens at, below those that the kernel gives to clients."""
    while True:
        port = 20000 + int.from_bytes(os.urandom(2), "big") % 10000
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def need(program: str) -> str:
    """Returns the path of a program. Raises ConfigError when it is not installed."""
    path = shutil.which(program, path=_search_path())
    if path is None:
        raise ConfigError(f"{program} is not installed: scripts/servers installs it")
    return path
