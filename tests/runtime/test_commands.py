"""The control socket: one reply to each request, and clients that do not wait for theirs."""

from __future__ import annotations

import json
import os
import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.runtime.supervisor.commands import ControlSocket


@pytest.fixture
def control(tmp_path: Path):
    """A control socket that listens."""
    control = ControlSocket(tmp_path / "test.sock")
    control.listen()
    yield control
    control.close()


def _connected(control: ControlSocket) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(5)
    client.connect(str(control.path))
    control.serve(control.fds()[0], {}, dict)
    return client


def test_each_verb_is_answered_and_nonsense_too(control):
    verbs = {"ping": lambda: {"ok": True, "pid": 7}, "stop": lambda: {"ok": False, "error": "not now"}}
    with _connected(control) as client:

        def ask(data: bytes) -> object:
            client.send(data)
            control.serve(control.fds()[-1], verbs, dict)
            return json.loads(client.recv(65536))

        assert ask(b'{"verb": "ping"}') == {"ok": True, "pid": 7}
        assert ask(b'{"verb": "stop"}') == {"ok": False, "error": "not now"}
        for nonsense in (b'{"verb": "dance"}', b'{"verb": 5}', b"[]", b"\xff"):
            answer = ask(nonsense)
            assert isinstance(answer, dict)
            assert answer["ok"] is False
            assert answer["error"].endswith("there are: ping, stop, relay")
        control.serve(control.fds()[-1], verbs, dict)  # a wake-up for nothing
        assert len(control.fds()) == 2
    control.serve(control.fds()[-1], verbs, dict)
    assert len(control.fds()) == 1, "its end is noticed"


def test_only_the_user_of_the_engine_may_ask(control, monkeypatch):
    assert control.path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(5)
        client.connect(str(control.path))
        with monkeypatch.context() as patch:
            patch.setattr("engine.runtime.supervisor.commands.struct.unpack", lambda *_: (1, os.getuid() + 1, 1))
            control.serve(control.fds()[0], {}, dict)
        assert client.recv(1) == b"", "hung up"
    assert len(control.fds()) == 1


def test_the_socket_of_an_engine_that_was_killed_is_taken_over(control, tmp_path):
    second = ControlSocket(control.path)
    second.listen()
    with _connected(second):
        assert len(second.fds()) == 2
    second.close()
    assert not control.path.exists()


def test_a_relay_that_is_refused_is_answered_once(control):
    with _connected(control) as client:
        client.send(b'{"verb": "relay"}')
        control.serve(control.fds()[-1], {}, lambda: {"ok": False, "error": "not ready"})
        assert json.loads(client.recv(65536)) == {"ok": False, "error": "not ready"}
        assert client.recv(65536) == b""


def test_a_relay_is_handed_over_after_its_answer(control):
    given = []
    with _connected(control) as client:
        client.send(b'{"verb": "relay"}')
        control.serve(control.fds()[-1], {}, lambda: lambda sock: given.append(sock.dup()))
        assert json.loads(client.recv(65536)) == {"ok": True}
        (handed,) = given
        handed.send(b"from the dispatcher")
        handed.close()
        assert client.recv(65536) == b"from the dispatcher"


def test_a_client_that_is_gone_is_not_handed_over(control):
    given = []
    with _connected(control) as client:
        client.send(b'{"verb": "relay"}')
    control.serve(control.fds()[-1], {}, lambda: given.append)
    assert given == []
    assert len(control.fds()) == 1


def test_who_knocks_when_nothing_can_be_opened_is_turned_away(control, caplog):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) for _ in range(3)]
        for client in clients:
            client.settimeout(5)
            client.connect(str(control.path))
        while True:  # all that lies between what is open
            try:
                stack.enter_context(open(os.devnull, "rb"))
                resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, limit[1]))
            except OSError:
                break
        try:
            for client in clients:
                control.serve(control.fds()[0], {}, dict)
                assert client.recv(1) == b""
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert len(caplog.records) == 1
    with _connected(control):
        assert len(control.fds()) == 2, "taken again"
