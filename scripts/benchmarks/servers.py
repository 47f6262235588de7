"""Servers of our own: on ports of their own, in a folder of their own, with nothing of the machine's configuration."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hiredis

from trees import Tree

DEADLINE = 60.0
# What lies on the path of a Debian changes the user before it starts a RabbitMQ.
PATH = os.pathsep.join(["/usr/lib/rabbitmq/bin", os.environ.get("PATH", ""), "/usr/sbin", "/opt/rabbitmq/sbin"])


class Server:
    """One server that runs."""

    def __init__(self, name: str, url: str, process: subprocess.Popen[bytes], version: str) -> None:
        self.name = name
        self.url = url
        self.version = version
        self.process = process
        self.tree = Tree(process.pid)

    def empty(self) -> None:
        """Deletes all that is in it."""
        raise NotImplementedError


class Redis(Server):
    """A Redis."""

    def empty(self) -> None:
        """See `Server.empty`."""
        redis_call(int(self.url.rpartition(":")[2].partition("/")[0]), b"FLUSHALL", b"SYNC")


class RabbitMQ(Server):
    """A RabbitMQ; its control program finds it through the environment. Each run gets a virtual host of its own."""

    env: Mapping[str, str] = {}
    runs = 0

    def empty(self) -> None:
        """See `Server.empty`."""
        self.runs += 1
        before, now = (f'<<"bench{number}">>' for number in (self.runs - 1, self.runs))
        everything = ", ".join(['<<".*">>'] * 3)
        program = (
            f'catch rabbit_vhost:delete({before}, <<"bench">>), rabbit_vhost:add({now}, <<>>, [], <<"bench">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, {now}, {everything}, <<"bench">>).'
        )
        env = {**os.environ, "PATH": PATH, **self.env}
        subprocess.run([_need("rabbitmqctl"), "eval", program], env=env, check=True, stdout=subprocess.DEVNULL)
        self.url = f"{self.url.rpartition('/')[0]}/bench{self.runs}"


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[Server]:
    """Runs a Redis that keeps its data in memory only, as all contenders are measured against the same."""
    port = _free_port()
    program = _need("redis-server")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with _running([*command, "--dir", str(folder)], folder / "redis.log", {}) as process:
        _wait_for(lambda: redis_call(port, b"PING") == b"PONG", process, "Redis")
        text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        yield Redis("redis", f"redis://127.0.0.1:{port}/0", process, text.split("v=")[1].split()[0])


@contextlib.contextmanager
def rabbitmq_server(folder: Path) -> Iterator[Server]:
    """Runs a RabbitMQ of one node, with a port mapper and a cookie of its own."""
    port, mapper, distribution = _free_port(), _free_port(), _free_port()
    env = {
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"bench{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": f"{folder}/db",
        "RABBITMQ_LOG_BASE": f"{folder}/log",
        "RABBITMQ_PID_FILE": f"{folder}/pid",
        "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
        "RABBITMQ_CONF_ENV_FILE": f"{folder}/environment",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
        # Threads that spin for work would be counted as work.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
    }
    (folder / "plugins").write_text("[].\n")
    (folder / "environment").touch()
    # Messages wait on this machine's disk, whatever is free there.
    (folder / "rabbitmq.conf").write_text("disk_free_limit.absolute = 50MB\n")
    cookie = folder / ".erlang.cookie"
    cookie.write_text(os.urandom(10).hex())
    cookie.chmod(0o400)
    log = folder / "rabbitmq.log"
    with contextlib.ExitStack() as stack:
        stack.enter_context(_running([_need("epmd")], log, env))
        process = stack.enter_context(_running([_need("rabbitmq-server")], log, env))
        _wait_for(lambda: _greets(port), process, "RabbitMQ")
        server = RabbitMQ("rabbitmq", f"amqp://guest:guest@127.0.0.1:{port}/%2f", process, _version_of_rabbitmq(folder))
        server.env = env
        server.empty()
        yield server


def redis_call(port: int, *words: bytes) -> object:
    """Sends one command over a connection of its own. Raises OSError."""
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(hiredis.pack_command(words))
        reader = hiredis.Reader()
        while (reply := reader.gets()) is False:
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("Redis hung up")
            reader.feed(data)
        return reply


def is_there(program: str) -> bool:
    """Is this server installed?"""
    return shutil.which(program, path=PATH) is not None


@contextlib.contextmanager
def _running(command: list[str], log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, "PATH": PATH, **env}
        )
    tree = Tree(process.pid)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        tree.kill()


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.05)
    raise SystemExit(f"{what} did not start: see its log, or install it with scripts/servers")


def _greets(port: int) -> bool:
    """An AMQP server that is up answers the protocol's header with a method frame."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.settimeout(5)
        sock.sendall(b"AMQP\x00\x00\x09\x01")
        return sock.recv(1) == b"\x01"


def _version_of_rabbitmq(folder: Path) -> str:
    for file in sorted((folder / "log").glob("*.log")):
        for line in file.read_text(errors="replace").splitlines():
            if "Starting RabbitMQ " in line:
                return line.split("Starting RabbitMQ ")[1].split()[0]
    return "?"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _need(program: str) -> str:
    found = shutil.which(program, path=PATH)
    if found is None:
        raise SystemExit(f"{program} is not installed: run scripts/servers")
    return found
