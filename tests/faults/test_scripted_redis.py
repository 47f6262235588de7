"""Redis answers errors, nonsense, or half of what it should: at boot that is said and the engine ends with the status
that fits; while it runs it is tried again, quietly, until it passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults_rig import APP, Rig

from engine.testing.faults.scripted import ALWAYS, HANG_UP, RESET, RIGHT_THEN_HANG_UP, SILENCE
from engine.testing.faults.scripted_redis import ERRORS, GARBAGE, HALF_A_REPLY, ScriptedRedis, error
from engine.testing.harness import EngineProcess, toml, wait_for

CONFIG, LATER = 78, 75
TIMES = 4
"""How often each answer is given: to all lanes, and to some of them again."""
PASSING = {
    **{code: error(code) for code in ERRORS},
    "ASK": error("ASK 3999 127.0.0.1:1"),
    "wrapped": error("ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed"),
    "garbage": GARBAGE,
    "half a reply": HALF_A_REPLY,
    "a reply, then the end": RIGHT_THEN_HANG_UP,
    "the end": HANG_UP,
    "reset": RESET,
}


class Site(Rig):
    """A rig with one engine for all tests, which reaches Redis through `script`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "redis", through=lambda port: ScriptedRedis(behind=port))
        self.start(concurrency=2)
        self.before = self.pids()

    @property
    def script(self) -> ScriptedRedis:
        """What the engine takes for Redis."""
        assert isinstance(self.front, ScriptedRedis)
        return self.front


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One engine: each test leaves it working."""
    site = Site(tmp_path_factory.mktemp("site").resolve())
    yield site
    site.close()


def _expect_work(site: Site, lines: int) -> None:
    """A task that was sent while the answers went wrong runs once, and nobody ended or said much of it."""
    mark = len(site.engine.log)
    result = site.send("sleep")
    assert result.get(timeout=30) == result.id
    wait_for(lambda: site.script.finished, "all of the script to be said")
    later = site.send("sleep")
    assert later.get(timeout=30) == later.id
    site.wait_empty()
    assert site.starts(result.id) == 1
    assert site.pids() == site.before
    said = site.engine.log[mark:]
    warnings = Counter(line.split()[3] for line in said.splitlines() if " WARNING " in line or " ERROR " in line)
    assert max(warnings.values(), default=0) <= lines, said
    assert "Traceback" not in said


@pytest.mark.parametrize("answer", PASSING)
def test_an_answer_that_goes_wrong_for_a_while_costs_nothing(site: Site, answer: str) -> None:
    site.script.script("EVALSHA", PASSING[answer], times=TIMES)
    _expect_work(site, lines=2 * TIMES)


def test_a_script_that_was_forgotten_is_sent_again_without_a_word(site: Site) -> None:
    mark = len(site.engine.log)
    site.script.script("EVALSHA", error("NOSCRIPT"))
    _expect_work(site, lines=0)
    assert "NOSCRIPT" not in site.engine.log[mark:]


def test_a_key_that_has_moved_is_followed(site: Site) -> None:
    site.script.script("EVALSHA", error(f"MOVED 3999 127.0.0.1:{site.server.port}"), times=2)
    _expect_work(site, lines=2)


def test_a_server_that_takes_a_command_and_says_nothing_is_given_up_after_its_timeout(site: Site) -> None:
    site.script.script("EVALSHA", SILENCE)
    _expect_work(site, lines=2)
    site.wait_log("no answer in")


AT_BOOT = {
    "NOAUTH": (CONFIG, "put it into the URL"),
    "WRONGPASS": (CONFIG, "refuses this user name and password"),
    "NOPERM": (CONFIG, "does not permit this user"),
    "LOADING": (LATER, "is loading its data"),
    "CLUSTERDOWN": (LATER, "is a cluster that is down"),
    "BUSY": (LATER, "is busy with somebody's script"),
    "CLIENTS": (LATER, "has too many clients"),
    "READONLY": (LATER, "is a replica, which takes no writes"),
    "MISCONF": (LATER, "cannot write to its disk"),
    "OOM": (LATER, "is out of memory"),
    "garbage": (LATER, "does not speak the protocol of Redis"),
    "half a reply": (LATER, "it closed the connection"),
    "the end": (LATER, "it closed the connection"),
}
REFUSED_FROM_THE_FIRST = ("NOAUTH", "WRONGPASS", "LOADING", "BUSY", "CLIENTS", "garbage", "half a reply", "the end")


@pytest.mark.parametrize("answer", AT_BOOT)
def test_at_boot_it_is_said_and_the_status_tells_whether_to_try_again(site: Site, tmp_path: Path, answer: str) -> None:
    with ScriptedRedis(behind=site.server.port) as redis:
        redis.script("" if answer in REFUSED_FROM_THE_FIRST else "EVALSHA", PASSING[answer], times=ALWAYS)
        engine = EngineProcess(tmp_path, toml(APP, broker=redis.url))
        try:
            engine.start(wait=False)
            status, says = AT_BOOT[answer]
            assert engine.wait(60) == status, engine.log
            assert says in engine.log
            assert "Traceback" not in engine.log
        finally:
            engine.close()
