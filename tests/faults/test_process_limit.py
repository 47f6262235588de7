"""The engine's user may have no more processes (``ulimit -u``), threads among them: the engine goes on with what it
has, says what is missing, and is whole again when there is room.

Such a limit does not bind root: the engine runs as a user of its own, and so does what uses the limit up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest
from faults_rig import Rig

from engine.testing.harness import wait_for

MOST = 30
"""Processes and threads of the user: an engine with three children has nine."""
HOG = """
import sys, threading, time

def fill():
    refused = 0
    while refused < 20:  # in a row: what comes and goes meanwhile is waited for
        try:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            refused = 0
        except RuntimeError:
            refused += 1
            time.sleep(0.005)
    print("full", flush=True)

fill()
for line in sys.stdin:
    fill()
"""


@pytest.fixture
def user() -> list[str]:
    """A program that runs another as a user of its own, who may open root's files and have `MOST` processes."""
    id = 20_000 + os.getpid() % 40_000
    command = ["prlimit", f"--nproc={MOST}:{MOST}", "setpriv", f"--reuid={id}", f"--regid={id}", "--clear-groups"]
    command += [f"--{kind}=-all,+dac_override" for kind in ("bounding-set", "inh-caps", "ambient-caps")]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no process can be run as another user here: {error}")
    return command


class Hog:
    """A process that takes all that the limit leaves."""

    def __init__(self, user: list[str]) -> None:
        command = [*user, sys.executable, "-c", HOG]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._wait()

    def take_more(self) -> None:
        """Takes what has become free."""
        assert self._process.stdin is not None
        self._process.stdin.write("more\n")
        self._process.stdin.flush()
        self._wait()

    def end(self) -> None:
        """Gives everything back."""
        self._process.kill()
        self._process.communicate()

    def _wait(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "full\n"


@pytest.fixture
def rig(rigs: Callable[..., Rig], user: list[str]) -> Rig:
    """A rig whose engine runs as that user, with three children."""
    rig = rigs("sqlite")
    rig.start(concurrency=3, wrapper=user)
    return rig


@pytest.fixture
def hog(rig: Rig, user: list[str]) -> Iterator[Hog]:
    """A hog beside it: there is no room for another process."""
    hog = Hog(user)
    yield hog
    hog.end()


def _run(rig: Rig, count: int) -> None:
    for result in rig.send_many("sleep", count, 0.002):
        assert result.get(timeout=30) == result.id


def test_a_child_that_cannot_be_forked_is_tried_again_while_the_others_work(rig: Rig, hog: Hog) -> None:
    """Where it died there is room for one: the process between template and child. The fork of the child fails."""
    victim = rig.engine.children()[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    rig.wait_log("cannot fork a child: [Errno 11]")
    _run(rig, 100)
    hog.end()
    wait_for(lambda: len([row for row in rig.engine.children() if row["pid"]]) == 3, "three children again", 60)
    _run(rig, 100)
    assert set(rig.ledger().count().values()) == {1}
    assert "Traceback" not in rig.engine.log


def test_a_dispatcher_that_cannot_have_its_threads_is_started_when_it_can(rig: Rig, hog: Hog) -> None:
    running = rig.send("hold", "gate")
    wait_for(lambda: rig.starts(running.id), "it to run")
    dispatcher = psutil.Process(rig.engine.pid_of("dispatcher"))
    rig.engine.signal(signal.SIGSTOP)
    dispatcher.kill()
    # Not reaped yet, it counts as one still. That one is left for the next dispatcher, and none for its threads.
    wait_for(
        lambda: dispatcher.status() == psutil.STATUS_ZOMBIE and dispatcher.num_threads() == 1, "its threads to end"
    )
    hog.take_more()
    rig.engine.signal(signal.SIGCONT)
    rig.wait_log("CRITICAL dispatcher", "can't start new thread: raise the limit of processes")
    hog.end()
    _run(rig, 100)
    (rig.folder / "gate").touch()
    assert running.get(timeout=20) == running.id
    assert set(rig.ledger().count().values()) == {1}
    assert "Traceback" not in rig.engine.log
