"""One run of one contender: a folder, a client process, a worker, and what they used."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from contenders import Contender
from ledger import Ledger
from servers import Server
from trees import Tree

HERE = Path(__file__).resolve().parent
DEADLINE = 120.0
"""Seconds after which a run is given up."""


class Run:
    """One contender at work, in a folder of its own. Made by `running`."""

    def __init__(
        self, contender: Contender, folder: Path, servers: Mapping[str, Server], keep: bool, env: Mapping[str, str]
    ) -> None:
        self.contender = contender
        self.folder = folder
        self.server = servers.get(contender.broker)
        self.ledger = Ledger(folder)
        self.tree: Tree | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._log = (folder / "log").open("ab")
        redis = servers["redis"].url
        self._env = {
            **os.environ,
            "BENCH_BROKER": self.server.url if self.server else redis,
            "BENCH_RESULTS": redis,
            "BENCH_KEEP": str(int(keep)),
            "BENCH_VARIANT": contender.variant,
            "BENCH_FOLDER": str(folder),
            "BENCH_LEDGER": str(self.ledger.path),
            "ENGINE_CONFIG": str(folder / "worker.toml"),
            "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "",
            **env,
        }
        self._client = self._spawn(
            [sys.executable, str(HERE / "client.py"), contender.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Has the client do something: see `client`."""
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(json.dumps([verb, *arguments]) + "\n")
        self._client.stdin.flush()
        answer = self._client.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.contender.name}: the client ended:\n{self.log}")
        return json.loads(answer)

    def command(self, children: int) -> list[str]:
        """Returns the command that starts a worker; its configuration is written, so that the client can send."""
        command: list[str] = self.ask("ask", "worker", children)[0]
        return command

    def start(self, command: list[str]) -> float:
        """Starts the worker; returns when, in monotonic seconds."""
        now = time.monotonic()
        self._worker = self._spawn(command, stdin=subprocess.DEVNULL, stdout=self._log)
        self.tree = Tree(self._worker.pid)
        if self.contender.worker_first:
            self.until(self._is_up, "the engine to run")
        return now

    def start_and_warm(self, command: list[str], tasks: int = 20) -> None:
        """Starts the worker, and returns when it has done some tasks and is idle."""
        self.start(command)
        before = self.ledger.total
        self.ask("keep", "send", tasks)
        self.wait_for(before + tasks)
        self.worker.settle()

    @property
    def worker(self) -> Tree:
        """The worker's processes."""
        assert self.tree is not None, "start() comes first"
        return self.tree

    def wait_for(self, total: int) -> float:
        """Waits until so many tasks have run in all; returns when, in monotonic seconds."""
        self.until(lambda: self.ledger.total >= total, f"{total} tasks to run, {{}} have")
        return time.monotonic()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for a condition. Raises RuntimeError with the log when it does not come."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            ended = self._worker is not None and self._worker.poll() is not None
            if time.monotonic() > deadline or ended:
                what = what.format(self.ledger.total)
                raise RuntimeError(f"{self.contender.name}: waited for {what}:\n{self.log}")
            time.sleep(0.002)

    def usage(self) -> tuple[dict[str, float], dict[str, float]]:
        """Returns CPU seconds so far, by role: of the worker, of the server."""
        return self.worker.cpu(), self.server.tree.cpu() if self.server else {}

    def settled_usage(self) -> tuple[dict[str, float], dict[str, float]]:
        """As `usage`, once the worker has come to rest."""
        spent = self.worker.settle()
        return spent, self.server.tree.cpu() if self.server else {}

    @property
    def log(self) -> str:
        """What worker and client have said, its end."""
        self._log.flush()
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """Kills what is left of it."""
        if self.tree is not None:
            self.tree.kill()
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._client.stdin.close()
        Tree(self._client.pid).kill()
        self._client.wait()
        self._client.stdout.close()
        self._log.close()

    def _is_up(self) -> bool:
        """Does the engine of this run say that it runs?"""
        with contextlib.suppress(OSError, StopIteration), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(next(self.folder.glob("run/*.sock"))))
            sock.send(b'{"verb": "status"}')
            return json.loads(sock.recv(1 << 20)).get("state") == "running"
        return False

    def _spawn(self, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(command, cwd=self.folder, env=self._env, stderr=self._log, **options)


@contextlib.contextmanager
def running(
    contender: Contender, servers: Mapping[str, Server], *, keep: bool = False, env: Mapping[str, str] | None = None
) -> Iterator[Run]:
    """Makes a run, and leaves nothing of it: no process, no message, no file."""
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as name:
        run = Run(contender, Path(name).resolve(), servers, keep, env or {})
        try:
            yield run
        finally:
            run.close()
            servers["redis"].empty()
            if contender.broker == "rabbitmq":
                servers["rabbitmq"].empty()
