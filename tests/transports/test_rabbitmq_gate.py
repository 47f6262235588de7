"""What comes again from RabbitMQ while it still runs, runs once: whole engines, and lost connections."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rabbit_server import shared

from engine import Engine, WorkerLostError
from engine.runtime.dispatcher import marks
from engine.testing.faults.rabbitmq import Rabbit
from engine.testing.harness import EngineProcess, toml, wait_for

TASKS = """
import os, time
from engine import Engine

app = Engine("gate")

def note(word, id):
    fd = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{word} {id}\\n".encode())
    os.close(fd)

def run(self):
    note("S", self.request.id)
    while not os.path.exists("go"):
        time.sleep(0.01)
    note("E", self.request.id)
    return self.request.id

@app.task(bind=True)
def waits(self):
    return run(self)

@app.task(bind=True, ignore_result=True)
def ignored(self):
    return run(self)

@app.task(bind=True, max_retries=3)
def retries(self):
    run(self)
    if self.request.retries < 1:
        raise self.retry(countdown=0)
"""


class Site:
    """Engines at one virtual host, each in a folder, with one file of results and one ledger."""

    def __init__(self, server: Rabbit, folder: Path) -> None:
        self.server = server
        self.vhost = server.virtual_host()
        self.url = server.url_of(self.vhost)
        self.folder = folder
        self.engines: list[EngineProcess] = []
        self.client = Engine("client", broker=self.url, backend=f"sqlite:///{folder}/results.db")

    def engine(self, name: str, concurrency: int = 2, dead_after: str = "1s") -> EngineProcess:
        """Starts an engine."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "gate_tasks.py").write_text(TASKS)
        for shared_file in ("ledger", "go"):
            (folder / shared_file).symlink_to(self.folder / shared_file)
        results = f"sqlite:///{self.folder}/results.db"
        config = toml("gate_tasks:app", broker=self.url, results=results, concurrency=concurrency)
        engine = EngineProcess(folder, config.replace('dead_after = "1s"', f'dead_after = "{dead_after}"'))
        self.engines.append(engine)
        return engine.start()

    def is_marked(self, id: str) -> bool:
        """Does a mark tell that a child runs this task?"""
        with self.client.client.results() as backend:
            mark = marks.read(backend.get([marks.mark_id(id)]).get(marks.mark_id(id)))
        return mark is not None and mark.begun

    def ledger(self) -> list[str]:
        """What tasks have noted."""
        path = self.folder / "ledger"
        return path.read_text().splitlines() if path.exists() else []

    def started(self) -> Counter[str]:
        """How often each task has begun."""
        return Counter(line[2:] for line in self.ledger() if line.startswith("S "))

    def go(self) -> None:
        """Lets the tasks end."""
        (self.folder / "go").touch()

    def cut(self) -> None:
        """Has the server close all connections."""
        self.server.control("close_all_connections", "--vhost", self.vhost, "a test")

    def is_done(self) -> bool:
        """Is nothing left at the broker?"""
        counts = self.client.client.broker(lambda transport: transport.counts())
        return sum(one.ready + one.claimed for one in counts.values()) == 0

    def close(self) -> None:
        """Ends everything."""
        self.client.close()
        for engine in self.engines:
            engine.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site of the test's own."""
    site = Site(shared(), tmp_path)
    yield site
    site.close()


def lose_connection(site: Site, engine: EngineProcess) -> None:
    """The server closes the connections."""
    site.cut()
    wait_for(lambda: "claims compared" in engine.log, "the comparison of claims")


def kill_dispatcher(site: Site, engine: EngineProcess) -> None:
    """The dispatcher is killed, and replaced."""
    pid = engine.pid_of("dispatcher")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "start 2 of worker" in engine.log, "another dispatcher")


@pytest.mark.parametrize("concurrency", [2, 4], ids=["busy", "idle"])
@pytest.mark.parametrize("loss", [lose_connection, kill_dispatcher])
@pytest.mark.parametrize("task", ["waits", "ignored", "retries"])
def test_what_runs_on_is_not_run_again(
    site: Site, task: str, loss: Callable[[Site, EngineProcess], None], concurrency: int
) -> None:
    """Children that are idle fetch what comes again while it runs; busy ones when it has ended."""
    engine = site.engine("one", concurrency)
    results = [site.client.send_task(f"gate_tasks.{task}", ignore_result=task == "ignored") for _ in range(2)]
    wait_for(lambda: len(site.started()) == 2, "both to run")
    loss(site, engine)
    if concurrency > 2:
        wait_for(lambda: engine.log.count("it runs on") >= 2, "both to have come again")
    site.go()
    if task != "ignored":
        for result in results:
            result.get(timeout=20)
    wait_for(site.is_done, "an empty broker")
    runs = 2 if task == "retries" else 1
    assert site.started() == Counter({result.id: runs for result in results})
    assert engine.stop() == 0


@pytest.mark.parametrize("task", ["waits", "ignored"])
def test_what_runs_on_elsewhere_is_waited_for(site: Site, task: str) -> None:
    first = site.engine("one", concurrency=1, dead_after="20s")
    result = site.client.send_task(f"gate_tasks.{task}", ignore_result=task == "ignored")
    wait_for(lambda: site.started()[result.id] == 1, "it to run")
    wait_for(lambda: site.is_marked(result.id), "a beat to mark it")
    second = site.engine("two", dead_after="20s")
    # The first worker's subscriptions are gone for longer than those of the second: that is who gets it.
    os.kill(first.pid_of("dispatcher"), signal.SIGSTOP)
    site.cut()
    wait_for(lambda: "claims compared" in second.log or "back after" in second.log, "the second to be back")
    os.kill(first.pid_of("dispatcher"), signal.SIGCONT)
    site.go()
    wait_for(lambda: len(site.ledger()) >= 2, "its end")
    wait_for(site.is_done, "an empty broker")
    assert site.started()[result.id] == 1
    assert first.stop() == 0
    assert second.stop() == 0


def test_what_ran_in_trees_that_were_killed_counts_crashes(site: Site) -> None:
    """Each time another engine gets it at once; the third makes it a dead letter."""
    result = site.client.send_task("gate_tasks.waits")
    for count in (1, 2, 3):
        engine = site.engine(str(count), concurrency=1)
        wait_for(lambda count=count: site.started()[result.id] == count, "it to run")
        wait_for(lambda: site.is_marked(result.id), "a mark that tells so")
        engine.kill_tree()
    last = site.engine("last", concurrency=1)
    with pytest.raises(WorkerLostError, match="its worker died"):
        result.get(timeout=20)
    assert "it runs again (crash 1)" in site.engines[1].log
    assert "it runs again (crash 2)" in site.engines[2].log
    # The result is written before the message ends: the dead letter comes after what `get` has seen.
    letter = wait_for(
        lambda: site.client.client.broker(lambda transport: transport.dead_letter(result.id)), "the dead letter"
    )
    assert (letter.reason.partition(":")[0], letter.crashes) == ("crash limit", 3)
    assert site.started()[result.id] == 3
    assert last.stop() == 0
