"""Forks, many processes, deaths between any two statements."""

from __future__ import annotations

import functools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlite_rig import SqliteRig

from engine.contract import Ack, Again, Batch, Dead, Envelope, Record, Release, Worker
from engine_sqlite import SqliteResults, SqliteTransport, session


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SqliteRig]:
    """A file of the test's own."""
    rig = SqliteRig(tmp_path)
    yield rig
    rig.close()


def in_child(work: Callable[[], object]) -> int:
    """Runs ``work`` in a fork, and returns how it ended: 0, or what os.waitstatus_to_exitcode says."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the fork must not run the rest of the tests
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_parent_and_child_go_on_with_the_same_objects(rig: SqliteRig) -> None:
    results = rig.results()
    rig.publish("before")
    results.store([Record("before", "SUCCESS", 1.0, 0, 1, b"", True)])
    assert list(results.wait(["never"], 0.01)) == []

    def work() -> None:
        rig.publish("in the child")
        assert list(results.wait(["before"], 5))
        results.store([Record("child", "SUCCESS", 1.0, 0, 1, b"", True)])
        assert list(results.wait(["never"], 0.01)) == []

    for _ in range(3):
        assert in_child(work) == 0
    rig.publish("after")
    assert [record.id for record in results.wait(["child"], 5)] == ["child"]
    consumer = rig.consumer()
    assert [delivery.id for delivery in consumer.fetch(10, 5)] == ["before", "in the child", "after"]
    with rig.raw() as other:
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_no_connection_is_open_in_a_fork(rig: SqliteRig) -> None:
    rig.publish("one")

    def work() -> None:
        assert not [fd for fd in os.listdir("/proc/self/fd") if _target(fd).startswith(str(rig.path))]

    assert in_child(work) == 0


def test_threads_that_write_do_not_disturb_a_fork(rig: SqliteRig) -> None:
    stop = threading.Event()
    failed: list[BaseException] = []

    def write(number: int) -> None:
        transport = rig.connect()
        try:
            while not stop.is_set():
                transport.publish([Envelope(id=os.urandom(8).hex(), body=b"", queue=f"q{number}")])
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        statuses = [in_child(lambda: rig.publish(os.urandom(8).hex())) for _ in range(20)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert statuses == [0] * 20
    assert not failed
    assert rig.transport.counts(["default"])["default"].ready == 20


PUBLISH = """
import sys
from engine.contract import Batch, Envelope
from engine_sqlite import SqliteTransport
transport = SqliteTransport(sys.argv[1], options={})
for n in range(200):
    transport.publish([Envelope(id=f"{sys.argv[2]}-{n}", body=b"{}")], batch=Batch(sys.argv[2], n))
transport.close()
"""


def test_clients_of_many_processes_and_two_workers(rig: SqliteRig) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    clients = [subprocess.Popen([sys.executable, "-c", PUBLISH, rig.url, f"c{n}"], env=env) for n in range(3)]
    taken: list[str] = []

    def drain() -> None:
        consumer = rig.consumer(transport=rig.connect())
        while len(taken) < 600 and time.monotonic() < deadline:
            deliveries = consumer.fetch(50, 0.2)
            taken.extend(delivery.id for delivery in deliveries)
            assert list(consumer.settle([Ack(delivery.claim) for delivery in deliveries])) == []

    deadline = time.monotonic() + 60
    threads = [threading.Thread(target=drain) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert [client.wait(60) for client in clients] == [0, 0, 0]
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == sorted(f"c{c}-{n}" for c in range(3) for n in range(200))


class Killing(sqlite3.Connection):
    """Kills its process just before the n-th statement of the process."""

    left = 0

    def execute(self, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]  # positional, as the engine calls it
        Killing.left -= 1
        if Killing.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(*args)


def _one_of_everything(path: Path) -> None:
    """A worker's life in small: whatever it does, it may be killed before any statement of it."""
    transport = SqliteTransport(f"sqlite:///{path}", options={})
    transport.share_results(SqliteResults(f"sqlite:///{path}", expires=60, options={}))
    consumer = transport.consume(["default"], Worker("doomed", "host", "boot", str(path.parent / "free.lock")))
    consumer.reconcile(())
    a, b, c, d = consumer.fetch(4, 0)
    consumer.renew([a.claim, b.claim])
    transport.publish([Envelope(id="e", body=b"1"), Envelope(id="f", body=b"1")], batch=Batch("doomed", 1))
    consumer.settle(
        [
            Ack(a.claim, _done("a")),
            Again(b.claim, Envelope(id="b", body=b"2"), _done("b")),
            Release(c.claim, counts="delivery"),
            Dead(d.claim, "reason", _done("d")),
        ]
    )
    transport.replay(["d"])
    consumer.takeover(3, 20)


def _done(id: str) -> Record:
    return Record(id, "SUCCESS", 1.0, 0, 1, b"", True)


@pytest.mark.parametrize("first", range(1, 8))
def test_killed_before_any_statement(tmp_path: Path, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = 1
    for kill_at in range(first, 500, 7):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        (folder / "free.lock").touch()
        rig = SqliteRig(folder)
        rig.publish("a", "b", "c", "d")
        rig.transport.close()

        def work(path: Path = rig.path, kill_at: int = kill_at) -> None:
            Killing.left = kill_at
            monkeypatch.setattr(session.sqlite3, "connect", functools.partial(sqlite3.connect, factory=Killing))
            _one_of_everything(path)

        ended = in_child(work)
        assert ended in (0, -signal.SIGKILL)
        _check_all_is_there(rig)
        rig.close()
        if ended == 0:
            break
    assert ended == 0, "the scenario was never carried out whole"


def _check_all_is_there(rig: SqliteRig) -> None:
    results = rig.results()
    rig.transport.publish([Envelope(id="e", body=b"1"), Envelope(id="f", body=b"1")], batch=Batch("doomed", 1))
    consumer = rig.transport.consume(["default"], rig.worker())
    consumer.takeover(99, 99)
    taken = consumer.fetch(100, 0)
    ids = sorted(delivery.id for delivery in taken)
    dead = [letter.id for letter in rig.transport.dead()]
    stored = set(results.get(["a", "b", "d"]))
    settled = bool(stored)
    assert stored in (set(), {"a", "b", "d"})
    assert ids + dead in (["a", "b", "c", "d", "e", "f"], ["b", "c", "d", "e", "f"], ["b", "c", "e", "f", "d"])
    assert settled == ("a" not in ids)
    assert {d.body for d in taken if d.id == "b"} == {b"2" if settled else b"b"}
    with rig.raw() as other:
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    consumer.close()


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
