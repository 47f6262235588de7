"""What /proc tells, and how ends are put into words: with real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from engine.runtime import processes
from engine.testing.harness import wait_for


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_a_process_is_read_whatever_its_name_looks_like(tmp_path):
    script = tmp_path / "a) S 1 (b"
    script.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(script), "600"])
    try:
        row = processes.read(process.pid)
        assert row is not None
        assert row.parent == os.getpid()
        assert row.session == os.getsid(0)
    finally:
        process.kill()
        process.wait()
    assert processes.read(process.pid) is None


def test_descendants_are_found_also_those_with_a_session_of_their_own():
    code = (
        "import subprocess, sys, time\n"
        "mine = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "away = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print(mine.pid, away.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    mine, away = map(int, leader.stdout.readline().split())
    assert processes.descendants([leader.pid]) == {mine, away}
    processes.kill([leader.pid, mine, away])
    leader.wait()
    leader.stdout.close()
    wait_for(
        lambda: all((processes.read(pid) or processes.Process(0, 0, 0, "Z")).state == "Z" for pid in (mine, away)),
        "them to be gone",
    )


def test_the_session_of_a_dead_leader_is_killed():
    code = (
        "import os, subprocess, sys\n"
        "mine = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(mine.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    mine = int(leader.stdout.readline())
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    assert mine in processes.kill_sessions({leader.pid})
    leader.wait()
    leader.stdout.close()
    wait_for(lambda: (processes.read(mine) or processes.Process(0, 0, 0, "Z")).state == "Z", "it to be gone")


def test_killing_who_is_gone_is_no_error(sleeper):
    sleeper.kill()
    sleeper.wait()
    processes.kill({sleeper.pid})
    assert processes.resident(sleeper.pid) == 0


def test_the_resident_size_is_in_bytes():
    assert 4 << 20 < processes.resident(os.getpid()) < 4 << 30


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os._exit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); import os; os.abort()", "SIGABRT"),
    ],
)
def test_ends_in_words(code, expected):
    process = subprocess.Popen([sys.executable, "-c", code])
    status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.wait()
    assert processes.cause(status).startswith(expected)
    expected_oom = "SIGKILL (out of memory)" if expected == "SIGKILL" else processes.cause(status)
    assert processes.cause(status, oom=True) == expected_oom


def test_the_oom_counter_says_when_it_moved(tmp_path):
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 1\noom_kill 1\n")
    counter = processes.OomCounter()
    counter._path, counter._count = events, 1
    assert not counter.moved()
    events.write_text("low 0\noom 2\noom_kill 2\n")
    assert counter.moved()
    assert not counter.moved()


def test_a_stop_is_seen_as_such(sleeper):
    os.kill(sleeper.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while processes.read(sleeper.pid).state != "T":
        assert time.monotonic() < deadline
