"""The verbs that ask a running engine, against a stand-in that answers at its control socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playground import Engine

from engine.app.config.folders import socket_path
from engine.app.config.loader import load
from engine.cli import control
from engine.errors import EngineError, NotRunning

STATUS = {
    "ok": True,
    "name": "engine",
    "pid": 11,
    "worker": "w",
    "version": "0.1.0",
    "state": "running",
    "uptime": 3700.5,
    "concurrency": 2,
    "queues": ["default", "slow"],
    "broker": "redis://:***@host/0",
    "processes": [
        {"role": "supervisor", "pid": 11, "uptime": 3700.5, "restarts": 0},
        {"role": "dispatcher", "pid": 12, "uptime": 9.0, "restarts": 1},
    ],
    "slots": [
        {
            "slot": 1,
            "pid": 14,
            "state": "waiting",
            "task": None,
            "id": None,
            "seconds": None,
            "done": 7,
            "generation": 1,
        },
        {"slot": 0, "pid": 13, "state": "running", "task": "a.b", "id": "i", "seconds": 61, "done": 3},
    ],
}


Answer = dict[str, Any] | Callable[[], dict[str, Any]] | None


class StandIn:
    """Answers every verb with what ``answers`` holds, and remembers what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer] = {"ping": {"ok": True, "pid": os.getpid()}, "status": STATUS}
        self.asked: list[str] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.listener.close()
        self.path.unlink()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                if not (data := client.recv(65536)):
                    continue
                verb = json.loads(data)["verb"]
                self.asked.append(verb)
                answer = self.answers.get(verb, {"ok": False, "error": f"unknown verb {verb!r}"})
                if callable(answer):
                    answer = answer()
                if answer is not None:
                    client.send(json.dumps(answer).encode())


@pytest.fixture
def running(folder: Path) -> Iterator[StandIn]:
    stand_in = StandIn(socket_path(load(env={}).settings))
    yield stand_in
    stand_in.close()


@pytest.fixture
def process() -> Iterator[int]:
    """A process that ends when it is told to."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    threading.Thread(target=os.waitpid, args=(pid, 0), daemon=True).start()
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("verb", ["status", "stop", "reload"])
def test_nobody_is_running(engine: Engine, folder: Path, verb: str) -> None:
    ended = engine(verb, "--name", "shop")
    assert ended.status == 75
    assert ended.err == (
        f"engine: no engine 'shop' is running on this host (nobody answers at {folder}/engine/shop.sock): "
        "start it with `engine start`\n"
    )


def test_a_stale_socket_is_nobody(engine: Engine, folder: Path) -> None:
    path = socket_path(load(env={}).settings)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(path))
    assert engine("status").status == 75


def test_engines_of_other_names_are_named(engine: Engine, running: StandIn) -> None:
    ended = engine("status", "--name", "shop")
    assert ended.err.endswith("; running: engine (give --name)\n")


def test_status(engine: Engine, running: StandIn) -> None:
    lines = engine("status").out.splitlines()
    assert lines[0] == "engine  running  up 1h1m  queues default, slow  broker redis://:***@host/0  version 0.1.0"
    assert lines[2].split() == ["PROCESS", "PID", "UP", "RESTARTS"]
    assert lines[4].split() == ["dispatcher", "12", "9s", "1"]
    assert lines[7].split() == ["0", "13", "running", "3", "1m1s", "a.b", "i"]
    assert lines[8].split() == ["1", "14", "waiting", "7"]


def test_children_of_the_old_code_are_marked_while_they_finish(engine: Engine, running: StandIn) -> None:
    old, new = ({**STATUS["slots"][0], "slot": slot, "generation": slot + 1} for slot in range(2))
    running.answers["status"] = {**STATUS, "slots": [old, new]}
    lines = engine("status").out.splitlines()
    assert "waiting (old code)" in lines[7]
    assert "old code" not in lines[8]


def test_status_as_json(engine: Engine, running: StandIn) -> None:
    assert engine("status", "--json").json == {key: value for key, value in STATUS.items() if key != "ok"}


def test_reload_that_is_not_waited_for(engine: Engine, running: StandIn) -> None:
    running.answers["reload"] = {"ok": True, "pid": 11}
    ended = engine("reload", "--no-wait")
    assert (ended.status, running.asked) == (0, ["reload"])
    assert "reloads (pid 11)" in ended.err


def test_reload_returns_when_the_new_code_has_taken_over(engine: Engine, running: StandIn) -> None:
    states = iter(["asked", "asked", "done"])
    running.answers["reload"] = {"ok": True, "pid": 11}
    running.answers["status"] = lambda: {**STATUS, "reload": {"state": next(states), "why": ""}}
    ended = engine("reload")
    assert (ended.status, ended.err) == (0, "engine reloaded\n")
    assert running.asked == ["reload", "status", "status", "status"]


def test_reload_says_why_the_old_code_keeps_running(engine: Engine, running: StandIn) -> None:
    running.answers["reload"] = {"ok": True, "pid": 11}
    running.answers["status"] = {**STATUS, "reload": {"state": "failed", "why": "tasks.py:3: NameError: x"}}
    ended = engine("reload")
    assert ended.status == 1
    assert ended.err == "engine: the reload failed, the old code keeps running: tasks.py:3: NameError: x\n"


def test_reload_that_takes_too_long(engine: Engine, running: StandIn) -> None:
    running.answers["reload"] = {"ok": True, "pid": 11}
    running.answers["status"] = {**STATUS, "reload": {"state": "asked", "why": ""}}
    ended = engine("reload", "--timeout", "0.1s")
    assert ended.status == 1
    assert "has not ended within 100ms" in ended.err


def test_what_the_engine_refuses_is_told(engine: Engine, running: StandIn) -> None:
    running.answers["reload"] = {"ok": False, "error": "the engine is shutting down"}
    ended = engine("reload")
    assert (ended.status, ended.err) == (1, "engine: the engine is shutting down\n")


@pytest.mark.parametrize(("option", "verb"), [((), "stop"), (("--quick",), "quit")])
def test_stop_returns_when_the_process_is_gone(
    engine: Engine, running: StandIn, process: int, option: tuple[str, ...], verb: str
) -> None:
    def stop() -> dict[str, Any]:
        os.kill(process, signal.SIGKILL)
        return {"ok": True, "pid": process}

    running.answers |= {"ping": {"ok": True, "pid": process}, verb: stop}
    ended = engine("stop", *option)
    assert (ended.status, ended.err) == (0, f"engine stopped (pid {process})\n")
    assert running.asked == ["ping", verb]


def test_stop_gives_up_after_its_timeout(engine: Engine, running: StandIn, process: int) -> None:
    running.answers |= {"ping": {"ok": True, "pid": process}, "stop": {"ok": True, "pid": process}}
    ended = engine("stop", "--timeout", "10ms")
    assert ended.status == 1
    assert ended.err == "engine: the engine has not ended within 10ms: see `engine status`, or use --quick\n"


def test_an_engine_that_ends_while_it_is_asked(running: StandIn) -> None:
    running.answers["status"] = None
    with pytest.raises(NotRunning, match="ended while it was asked"):
        control.ask(load(env={}).settings, "status")
    assert control.ask(load(env={}).settings, "ping")["ok"]


def test_an_unknown_verb(running: StandIn) -> None:
    with pytest.raises(EngineError, match="unknown verb 'dance'"):
        control.ask(load(env={}).settings, "dance")
