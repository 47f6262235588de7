"""Whole engines at a Redis that dies, hangs, fills up or loses replies: nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_rig import put_pressure, url_of

from engine import Engine
from engine.testing.faults.proxy import Proxy
from engine.testing.harness import EngineProcess, toml, wait_for
from servers import RedisServer, redis_server

TASKS = """
import os, time
from engine import Engine
app = Engine("tasks")

def note(word, key):
    fd = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{word} {key}\\n".encode())
    os.close(fd)

@app.task(bind=True, max_retries=5)
def work(self, key, seconds=0.005, retries=0):
    note("S", f"{key}.{self.request.retries}")
    time.sleep(seconds)
    if self.request.retries < retries:
        raise self.retry(countdown=0.05)
    note("E", key)
    return key
"""


class Site:
    """A Redis with an append-only file, engines in folders of their own, one ledger, and a client."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder = folder
        self.server = server
        self.ledger = folder / "ledger"
        self.engines: list[EngineProcess] = []
        self.client = Engine("client", broker=server.url, backend=server.url)

    def engine(self, url: str | None = None, **options: Any) -> EngineProcess:
        """Starts an engine."""
        folder = self.folder / f"engine-{len(self.engines)}"
        folder.mkdir()
        (folder / "tasks.py").write_text(TASKS)
        text = toml("tasks", broker=url or self.server.url, **options)
        text = text.replace("\n[results]", 'timeout = "2s"\n\n[results]', 1)
        engine = EngineProcess(folder, text, env={"LEDGER": str(self.ledger)})
        self.engines.append(engine)
        return engine.start()

    def send(self, count: int, **options: Any) -> list[Any]:
        """Sends ``count`` tasks."""
        return [self.client.send_task("tasks.work", (key,), options) for key in range(count)]

    def counted(self, word: str) -> Counter[str]:
        """Returns how often each key was started or ended."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return Counter(line.split(" ")[1] for line in lines if line.startswith(word))

    def close(self) -> None:
        """Ends everything."""
        for engine in self.engines:
            engine.close()
        self.client.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose Redis runs."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder, "--appendonly", "yes", "--appendfsync", "always") as server:
        site = Site(tmp_path, server)
        yield site
        site.close()


def finish(site: Site, results: list[Any]) -> None:
    """Waits for all results; each task ran once, and Redis holds nothing of it but its result."""
    keys = list(range(len(results)))
    assert [result.get(timeout=60) for result in results] == keys
    assert site.counted("E") == Counter(map(str, keys))
    assert set(site.counted("S").values()) == {1}, "a task was started twice"
    for engine in site.engines:
        assert engine.stop() == 0
    left = site.server.expect("KEYS", "*")
    assert isinstance(left, list)
    names = {key.split(b":")[1] for key in left}
    assert names <= {b"number", b"result", b"producer", b"bell", b"nudge", b"order"}, left


def test_tasks_with_retries_leave_nothing_but_their_results(site: Site) -> None:
    site.engine()
    finish(site, site.send(200, retries=1))


def test_a_killed_redis_costs_no_task_and_no_second_run(site: Site) -> None:
    site.engine()
    results = site.send(400)
    for share in (50, 150, 250):
        wait_for(lambda share=share: len(site.counted("E")) >= share, "some to be done")  # type: ignore[misc]
        site.server.kill()
        site.server.start()
    finish(site, results)


def test_a_redis_that_hangs_longer_than_dead_after_costs_nothing(site: Site) -> None:
    engine = site.engine()
    results = site.send(200, seconds=0.02)
    wait_for(lambda: len(site.counted("E")) >= 20, "some to be done")
    children = {row["pid"] for row in engine.children()}
    site.server.pause()
    wait_for(lambda: "no answer in 2 s" in engine.log, "the engine to notice")
    site.server.resume()
    finish(site, results)
    assert "died" not in engine.log
    assert len(children) == 2


def test_lost_replies_cost_nothing(site: Site) -> None:
    proxy = Proxy(site.server.port, seed=7)
    site.engine(url_of(proxy))
    results = site.send(400)
    proxy.lose = 0.03
    wait_for(lambda: len(site.counted("E")) == 400, "all to be done", 60)
    proxy.lose = 0.0
    finish(site, results)
    assert proxy.lost > 0
    proxy.close()


def test_a_full_redis_is_drained_by_the_engine(site: Site) -> None:
    results = site.send(300, retries=1)
    put_pressure(site.server)
    site.engine()
    finish(site, results)
    assert site.server.info()["maxmemory"] != "0"


def test_dispatchers_that_are_killed_cost_nothing(site: Site) -> None:
    engine = site.engine()
    results = site.send(300)
    for share in (50, 150):
        wait_for(lambda share=share: len(site.counted("E")) >= share, "some to be done")  # type: ignore[misc]
        dispatcher = engine.pid_of("dispatcher")
        os.kill(dispatcher, signal.SIGKILL)
        wait_for(lambda old=dispatcher: engine.is_running() and engine.pid_of("dispatcher") != old, "the next")  # type: ignore[misc]
    finish(site, results)


def test_another_engine_takes_over_from_one_that_is_killed(site: Site) -> None:
    doomed = site.engine()
    results = site.send(60, seconds=0.05)
    wait_for(lambda: len(site.counted("E")) >= 10, "some to be done")
    other = site.engine(worker='log_level = "INFO"')
    doomed.kill_tree()
    started = time.monotonic()
    assert sorted(result.get(timeout=30) for result in results) == list(range(60))
    assert time.monotonic() - started < 30
    twice = [key for key, count in site.counted("S").items() if count > 1]
    assert len(twice) <= 4, "only what ran, or had ended a moment ago, in a killed child may run again"
    assert other.stop() == 0
