"""Private RabbitMQ nodes for tests: own ports, folder, cookie and epmd, nothing of the machine's configuration."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from servers import free_port, need

DEADLINE = 90.0
POOL = 40
"""Virtual hosts that are made in one go: each command line call takes a second or two."""
_FOLDERS = ("/usr/sbin", "/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin")


class RabbitServer:
    """One node. It can be killed, stopped for a while, and started again with what its folder holds."""

    def __init__(self, folder: Path, config: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = dict(config or {})
        self._dist, self._epmd_port = free_port(), free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._vhosts: list[str] = []
        self._made = 0
        self._tools = _tools()

    @property
    def environment(self) -> dict[str, str]:
        """What makes the server's programs find this node, and nothing else."""
        folder = str(self.folder)
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": folder,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._dist),
            "RABBITMQ_MNESIA_BASE": f"{folder}/db",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/environment",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def url(self, vhost: str = "%2F", user: str = "guest:guest") -> str:
        """The URL of a virtual host."""
        return f"amqp://{user}@127.0.0.1:{self.port}/{vhost}"

    def vhost(self) -> str:
        """Returns a virtual host that nobody has used."""
        if not self._vhosts:
            names = [f"t{n}" for n in range(self._made, self._made + POOL)]
            self._made += POOL
            listed = ", ".join(f'<<"{name}">>' for name in names)
            self.evaluate(
                f'[begin rabbit_vhost:add(V, <<>>, [], <<"test">>), '
                f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, V, <<".*">>, <<".*">>, <<".*">>, '
                f'<<"test">>) end || V <- [{listed}]].'
            )
            self._vhosts = names
        return self._vhosts.pop(0)

    def start(self) -> None:
        """Starts it and waits until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "plugins").write_text("[].")
        (self.folder / "environment").touch()
        lines = {"loopback_users": "none", "listeners.tcp.1": f"127.0.0.1:{self.port}", **self.config}
        (self.folder / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(os.urandom(10).hex())
            cookie.chmod(0o400)
        if self._epmd is None:
            command = [need("epmd"), "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = subprocess.Popen(command, env=self.environment, stderr=subprocess.DEVNULL)
            _wait(lambda: _listens(self._epmd_port), "epmd")
        with (self.folder / "out").open("wb") as out:
            self.process = subprocess.Popen(
                [str(self._tools / "rabbitmq-server")], env=self.environment, stdin=subprocess.DEVNULL, stdout=out,
                stderr=out, start_new_session=True,
            )  # fmt: skip
        _wait(self._is_up, "RabbitMQ")

    def control(self, *words: str) -> str:
        """Runs rabbitmqctl."""
        command = [str(self._tools / "rabbitmqctl"), "--quiet", *words]
        done = subprocess.run(
            command, check=False, env=self.environment, capture_output=True, text=True, timeout=DEADLINE
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def evaluate(self, expression: str) -> str:
        """Evaluates Erlang in the node."""
        return self.control("eval", expression)

    def flush(self) -> None:
        """Has what was declared written to disk. RabbitMQ 3.10 does so up to some seconds late, and when it is killed
        before, it forgets the queue with its messages, or cannot start its streams again."""
        self.evaluate("[dets:sync(Table) || Table <- dets:all()].")

    def kill(self) -> None:
        """kill -9 of the whole node."""
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        self.process = None
        _wait(lambda: not _listens(self.port), "the end of RabbitMQ")

    def pause(self) -> None:
        """SIGSTOP: it hangs."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends the node and its epmd. What tests made of it does not matter any more."""
        if self.process is not None:
            self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def _is_up(self) -> bool:
        assert self.process is not None
        ended = self.process.poll() is not None
        assert not ended, f"RabbitMQ did not come up: {(self.folder / 'out').read_text()[-2000:]}"
        return "Starting broker... completed" in (self.folder / "out").read_text() and _listens(self.port)


@cache
def shared() -> RabbitServer:
    """Returns the node that all tests share which do not break it; it is ended with this process."""
    folder = Path(tempfile.mkdtemp(prefix="rabbit-"))
    server = RabbitServer(folder)

    def end() -> None:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    server.start()
    return server


def _tools() -> Path:
    os.environ["PATH"] = os.pathsep.join(dict.fromkeys([*os.environ["PATH"].split(os.pathsep), *_FOLDERS]))
    for folder in ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin"):
        if Path(folder, "rabbitmq-server").exists():
            return Path(folder)  # what lies on the path of a Debian changes the user first
    return Path(need("rabbitmq-server")).parent


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come up in {DEADLINE:g} s"
        time.sleep(0.05)
