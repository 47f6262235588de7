"""A private RabbitMQ node to run tasks on, and to kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from engine.testing.faults.brokers import DEADLINE, Server, free_port, need, search_path

ATTEMPTS = 3
"""Of the first start: somebody else may take a port between its choice and its use."""
VIRTUAL_HOSTS = 40
"""That are made in one go: a call from the command line takes a second or two."""
SCHEDULERS = 2
"""Processors that a node of a test uses at most: others run beside it."""
_PORT_TAKEN = ("already_used", "eaddrinuse", "already in use")
_INNER = Path("/usr/lib/rabbitmq/bin")
"""Where a Debian has the programs; what lies on the path there changes the user first."""


class Rabbit(Server):
    """A node with its own ports, epmd, cookie, configuration and data. Results are kept in SQLite: any backend that is
    asked by id tells what was delivered again from what was not run."""

    def __init__(
        self, folder: Path, config: Mapping[str, str] | None = None, *, schedulers: int | None = SCHEDULERS
    ) -> None:
        """``config``: lines of rabbitmq.conf. ``schedulers``: how many processors it uses at once; None: all. Raises
        ConfigError when a program is missing."""
        super().__init__(folder)
        self.results = f"sqlite:///{folder}/results.db"
        self.config = {"loopback_users": "none", **(config or {})}
        # Threads that spin for work would take the processors from what is tested, and count as its work.
        self._erlang = "+sbwt none +sbwtdcpu none +sbwtdio none"
        if schedulers is not None:
            self._erlang += f" +S {schedulers}:{schedulers}"
        self._program, self._mapper = _program("rabbitmq-server"), need("epmd")
        self._epmd: subprocess.Popen[bytes] | None = None
        self._has_started = False
        self._virtual_hosts: list[str] = []
        self._made = 0
        self._choose_ports()

    def url_of(self, virtual_host: str = "%2F", user: str = "guest:guest") -> str:
        """Returns the URL of a virtual host."""
        return f"amqp://{user}@127.0.0.1:{self.port}/{virtual_host}"

    def virtual_host(self) -> str:
        """Returns a virtual host that nobody has used."""
        if not self._virtual_hosts:
            made = [f"t{number}" for number in range(self._made, self._made + VIRTUAL_HOSTS)]
            self._made += VIRTUAL_HOSTS
            listed = ", ".join(f'<<"{name}">>' for name in made)
            self.evaluate(
                '[begin rabbit_vhost:add(V, <<>>, [], <<"test">>), rabbit_auth_backend_internal:set_permissions('
                f'<<"guest">>, V, <<".*">>, <<".*">>, <<".*">>, <<"test">>) end || V <- [{listed}]].'
            )
            self._virtual_hosts = made
        return self._virtual_hosts.pop(0)

    def start(self) -> None:
        """Starts it, and returns when it serves."""
        for attempt in range(ATTEMPTS):
            self._write()
            if self._epmd is None:
                command = [self._mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1"]
                self._epmd = subprocess.Popen(command, env=self.env, cwd=self.folder, stderr=subprocess.DEVNULL)
            self._spawn([self._program], self.env, own_session=True)
            try:
                self._await("rabbitmq-server")
                self._has_started = True
                return
            except AssertionError as error:
                self.close()
                taken = any(word in str(error) for word in _PORT_TAKEN)
                if self._has_started or not taken or attempt == ATTEMPTS - 1:
                    raise
                self._choose_ports()

    def kill(self) -> None:
        """Kills the whole node (SIGKILL), once what was declared is on disk (see `flush`); returns when nobody listens
        any more."""
        if self.process is None:
            return
        with suppress(AssertionError, subprocess.TimeoutExpired):  # it may have ended, or hang
            self.flush()
        self._signal(signal.SIGKILL)
        self.process.wait()
        self.process = None
        deadline = time.monotonic() + DEADLINE
        while self._listens():
            assert time.monotonic() < deadline, "RabbitMQ listens after it was killed"
            time.sleep(0.01)

    def pause(self) -> None:
        """Stops it (SIGSTOP): it hangs, and its connections stay."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

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

    def control(self, *words: str) -> str:
        """Runs rabbitmqctl; returns what it prints."""
        return self._run([_program("rabbitmqctl"), "--quiet", *words])

    def evaluate(self, expression: str) -> str:
        """Evaluates Erlang in the node; returns the value as text."""
        caller = shutil.which("erl_call", path="/usr/lib/erlang/bin:" + search_path())
        if caller is None:
            return self.control("eval", expression)
        cookie = (self.folder / ".erlang.cookie").read_text()
        command = [caller, "-n", self._name, "-c", cookie, "-e"]
        try:
            said = self._run(command, expression + "\n")
        except AssertionError:  # a busy node lets it wait for its handshake no longer than a moment
            said = self._run(command, expression + "\n")
        assert said.startswith("{ok, "), said
        return said.removeprefix("{ok, ").removesuffix("}")

    def flush(self) -> None:
        """Has what was declared written to disk. RabbitMQ 3.10 does so up to some seconds late, and when it is killed
        before, it forgets the queue with its messages, or cannot start its streams again."""
        self.evaluate("[dets:sync(Table) || Table <- dets:all()].")

    @property
    def env(self) -> dict[str, str]:
        """What makes the programs of RabbitMQ find this node, and nothing else."""
        folder = str(self.folder)
        return {
            "PATH": search_path(),
            "LANG": "C.UTF-8",
            "HOME": folder,
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": f"{folder}/db",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/environment",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": self._erlang,
        }

    def _choose_ports(self) -> None:
        self.port, self._distribution, self._mapper_port = free_port(), free_port(), free_port()
        self.url = self.url_of()
        self._name = f"test{self.port}@localhost"

    def _write(self) -> None:
        (self.folder / "plugins").write_text("[].")
        (self.folder / "environment").touch()
        lines = {"listeners.tcp.1": f"127.0.0.1:{self.port}", **self.config}
        (self.folder / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(os.urandom(10).hex())
            cookie.chmod(0o400)

    def _signal(self, number: int) -> None:
        assert self.process is not None, "start() comes first"
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.process.pid, number)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _run(self, command: list[str], text: str | None = None) -> str:
        done = subprocess.run(
            command, check=False, env=self.env, input=text, capture_output=True, text=True, timeout=DEADLINE
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def _program(name: str) -> str:
    inner = _INNER / name
    return str(inner) if inner.exists() else need(name)
