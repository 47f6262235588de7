"""No more processes, no more open files, no more room on the disk: the engine goes on with what it has, says what is
missing, and is whole again when there is more.

Forks are made to fail at a point here; `test_process_limit.py` has a real limit. Limits on open files and on the size
of files are set from outside, on the process that is to meet them, while it runs.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from faults_rig import Rig

from engine import Engine
from engine.errors import BrokerFull
from engine.testing.harness import wait_for

NO_MORE = 3
"""As the limit of open files: what is open stays so, and nothing more can be opened."""
LARGE = 300_000
"""Bytes of a packet that travels as a file."""


@contextmanager
def limited(pids: list[int], what: int, most: int) -> Iterator[None]:
    """Limits processes that run; those that are still there at the end get their limit back."""
    before = {pid: resource.prlimit(pid, what) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, what, (most, hard))
    try:
        yield
    finally:
        for pid, limit in before.items():
            if os.path.exists(f"/proc/{pid}/fd"):
                resource.prlimit(pid, what, limit)


@pytest.fixture
def sqlite(rigs: Callable[..., Rig]) -> Rig:
    """A rig on SQLite."""
    return rigs("sqlite")


def _fails(point: str, at: int, times: int) -> str:
    """So many failures in a row: each counts the passes that the others let through."""
    return ",".join([f"{point}:fail=EAGAIN:{at}"] * times)


def _run(rig: Rig, count: int) -> None:
    for result in rig.send_many("sleep", count, 0.002):
        assert result.get(timeout=30) == result.id


def test_children_that_cannot_be_forked_are_tried_again_while_the_others_work(sqlite: Rig) -> None:
    engine = sqlite.start(concurrency=3, points=_fails("fork.child", 4, 6))
    os.kill(engine.children()[0]["pid"], signal.SIGKILL)
    _run(sqlite, 100)
    wait_for(lambda: len([row for row in engine.children() if row["pid"]]) == 3, "three children again", 60)
    assert engine.log.count("cannot fork a child") == 6
    _run(sqlite, 100)
    assert set(sqlite.ledger().count().values()) == {1}


@pytest.mark.parametrize("first", [1, 2], ids=["one", "the other"])
def test_services_that_cannot_be_forked_at_boot_are_started_when_they_can(sqlite: Rig, first: int) -> None:
    engine = sqlite.start(points=_fails("fork.service", first, 3))
    assert engine.log.count("cannot start the ") == 3
    _run(sqlite, 10)


def test_a_dispatcher_that_cannot_be_forked_is_started_when_it_can(sqlite: Rig) -> None:
    engine = sqlite.start(points=_fails("fork.service", 3, 4))
    running = sqlite.send("sleep", 0.3)
    wait_for(lambda: sqlite.starts(running.id), "it to run")
    os.kill(engine.pid_of("dispatcher"), signal.SIGKILL)
    assert running.get(timeout=30) == running.id
    assert engine.log.count("cannot start the dispatcher") == 4
    assert sqlite.starts(running.id) == 1


def test_a_child_that_can_open_nothing_any_more_is_replaced_after_the_task_that_told(sqlite: Rig) -> None:
    engine = sqlite.start(concurrency=1)
    with limited([engine.children()[0]["pid"]], resource.RLIMIT_NOFILE, NO_MORE):
        with pytest.raises(OSError, match="Too many open files"):
            sqlite.send("sleep").get(timeout=20)
        _run(sqlite, 10)
    sqlite.wait_log("is replaced: it can open no file any more")


def test_large_arguments_and_results_of_children_that_can_open_nothing_are_done_by_others(sqlite: Rig) -> None:
    engine = sqlite.start(concurrency=2)
    with limited([row["pid"] for row in engine.children()], resource.RLIMIT_NOFILE, NO_MORE):
        taken = [sqlite.send("take", "x" * LARGE) for _ in range(5)]
        made = [sqlite.send("big", LARGE) for _ in range(5)]
        assert [result.get(timeout=30) for result in taken] == [None] * 5
        assert [len(result.get(timeout=30)) for result in made] == [LARGE] * 5
    sqlite.wait_empty()


def test_a_dispatcher_that_can_open_nothing_loses_no_large_result(sqlite: Rig) -> None:
    engine = sqlite.start(concurrency=2)
    made = [sqlite.send("hold", "gate")]
    wait_for(lambda: sqlite.ledger().starts, "it to run")
    with limited([engine.pid_of("dispatcher")], resource.RLIMIT_NOFILE, NO_MORE):
        made += [sqlite.send("big", LARGE) for _ in range(4)]
        sqlite.wait_log("dispatcher died", "exit status 70")
        (sqlite.folder / "gate").touch()
        assert [len(result.get(timeout=30)) for result in made[1:]] == [LARGE] * 4
    assert made[0].get(timeout=20) == made[0].id
    assert "what cannot be read" not in engine.log
    sqlite.wait_empty()


def test_a_supervisor_that_can_open_nothing_turns_clients_away_and_keeps_its_children(sqlite: Rig) -> None:
    engine = sqlite.start(concurrency=2)
    victim = engine.children()[0]["pid"]
    highest = max(int(name) for name in os.listdir(f"/proc/{engine.pid}/fd"))
    address = str(next(sqlite.folder.glob("run/*.sock")))
    with ExitStack() as stack:
        stack.enter_context(limited([engine.pid], resource.RLIMIT_NOFILE, highest + 1))
        for _ in range(40):
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            client.settimeout(10)
            client.connect(address)
        assert client.recv(1) == b"", "turned away"
        os.kill(victim, signal.SIGKILL)
        _run(sqlite, 50)
        assert engine.log.count("a connection to the control socket cannot be taken") == 1
    assert engine.stop() == 0
    engine.assert_nothing_left()


# Room on the disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB: SQLite's write-ahead log alone takes 4 before it is copied into the file for the first
    time. Mounting one is root's."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def test_a_full_disk_refuses_new_tasks_and_forgets_none(sqlite: Rig, small_disk: Path) -> None:
    url = f"sqlite:///{small_disk}/engine.db"
    sqlite.broker.url = sqlite.broker.results = url
    engine = sqlite.start(concurrency=2)
    before = sqlite.pids()
    results = sqlite.send_many("sleep", 100, 0.02)
    wait_for(lambda: len(sqlite.ledger().ends) > 10, "some to end")
    _fill(small_disk / "ballast")
    with closing(Engine("full", broker=url)) as client, pytest.raises(BrokerFull, match="free some space on its disk"):
        client.send_many([client.signature("faults.take", ("x" * 100_000,))] * 100)
    sqlite.wait_log("broker:", "trying again until it is back")
    (small_disk / "ballast").unlink()
    for result in results:
        assert result.get(timeout=30) == result.id
    assert set(sqlite.ledger().count().values()) == {1}
    assert sqlite.pids() == before
    assert "Traceback" not in engine.log
    wait_for(lambda: not sqlite.places(), "the queue to be empty")


def test_a_file_that_may_not_grow_stops_the_queue_and_loses_nothing(sqlite: Rig) -> None:
    engine = sqlite.start(concurrency=2)
    before = sqlite.pids()
    results = sqlite.send_many("sleep", 100, 0.01)
    wait_for(lambda: len(sqlite.ledger().ends) > 10, "some to end")
    with limited([engine.pid_of("dispatcher")], resource.RLIMIT_FSIZE, 4096):
        sqlite.wait_log("broker:", "trying again until it is back")
    for result in results:
        assert result.get(timeout=30) == result.id
    assert set(sqlite.ledger().count().values()) == {1}
    assert sqlite.pids() == before
    sqlite.wait_empty()


def test_a_log_without_room_is_no_reason_to_stop(sqlite: Rig) -> None:
    with open("/dev/full", "wb") as full:
        sqlite.start(concurrency=2, stderr=full)
    _run(sqlite, 20)
    os.kill(sqlite.ledger().starts[-1].pid, signal.SIGKILL)
    _run(sqlite, 20)
    assert sqlite.engine.stop() == 0
