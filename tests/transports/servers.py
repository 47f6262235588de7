"""Private Redis servers for tests: own port, own folder, nothing of the machine's configuration."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hiredis
import pytest

from engine_redis.address import Address
from engine_redis.connection import dial

DEADLINE = 20.0


class RedisServer:
    """One ``redis-server``, or another program of its family. It can be killed, stopped for a while, and started again
    at the same port with what its folder holds."""

    def __init__(self, folder: Path, *arguments: str, port: int | None = None, program: str = "redis-server") -> None:
        self.folder = folder
        self.port = port or free_port()
        self.socket = str(folder / f"{self.port}.sock")
        self.arguments = arguments
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of its database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [need(self.program), *self._config(), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--unixsocket", self.socket, *self.arguments]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait_until_up()

    def wait_until_up(self) -> None:
        """Waits until it answers and has loaded its data."""
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                reply = self.command("PING")
            except OSError:
                reply = None
            if reply is not None and not str(reply).startswith("LOADING"):
                return
            assert self.process is not None
            late = time.monotonic() > deadline or self.process.poll() is not None
            assert not late, f"{self.program} did not come up: {(self.folder / 'log').read_text()}"
            time.sleep(0.01)

    def command(self, *words: str | int | bytes) -> object:
        """Runs a command over the unix socket, as a user whom no test changes; an error reply is returned."""
        connection = dial(Address("unix", ((self.socket, 0),)), self.socket, 0)
        try:
            connection.call("AUTH", "operator", "any")
            return connection.call(*words)
        finally:
            connection.close()

    def expect(self, *words: str | int | bytes) -> object:
        """Runs a command that must succeed."""
        reply = self.command(*words)
        assert not isinstance(reply, hiredis.ReplyError), reply
        return reply

    def info(self) -> dict[str, str]:
        """Returns INFO."""
        text = self.expect("INFO", "everything")
        assert isinstance(text, bytes)
        return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it."""
        self._end(signal.SIGKILL if self.process is None else signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: it hangs."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _config(self) -> list[str]:
        return ["--save", "", "--appendonly", "no", "--user", "operator", "on", "nopass", "~*", "&*", "+@all"]

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class Sentinel(RedisServer):
    """A sentinel: it needs a configuration file that it may write."""

    def _config(self) -> list[str]:
        file = self.folder / f"sentinel-{self.port}.conf"
        if not file.exists():
            file.write_text("")
        return [str(file), "--sentinel"]


def free_port() -> int:
    """Returns a port that nobody listens at, nor at the one 10000 above; both below those that clients are given."""
    while True:
        port = 10000 + int.from_bytes(os.urandom(2), "big") % 10000
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0 and probe.connect_ex(("127.0.0.1", port + 10000)) != 0:
                return port


def need(program: str) -> str:
    """Returns the path of a program; without it the test is skipped, or fails under CI=true."""
    path = shutil.which(program)
    if path is None:
        missing(f"{program} is not installed: scripts/servers installs it")
    return path


def missing(what: str) -> NoReturn:
    """Skips the test, or fails it under CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def redis_server(folder: Path, *arguments: str) -> Iterator[RedisServer]:
    """A server for one test or one file of tests."""
    server = RedisServer(folder, *arguments)
    try:
        server.start()
        yield server
    finally:
        server.stop()
