"""The observer that writes lines of JSON: in a real worker, and where its lines go."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine_jsonevents
from engine import AsyncResult, Engine
from engine.contract import Event
from engine.testing.harness import EngineProcess, toml, wait_for
from engine_jsonevents.lines import Lines

Row = dict[str, Any]
EVENTS = "events.jsonl"


class Site:
    """An engine whose events are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(Path(__file__).with_name("event_tasks.py"), folder)
        url = f"sqlite:///{folder}/engine.db"
        self.client = Engine("client", broker=url, backend=url)
        self.engine: EngineProcess | None = None

    def start(self, *, file: str | None = EVENTS, enabled: bool = True) -> EngineProcess:
        """Starts the engine, whose plugin writes into ``file`` (None: to stderr)."""
        plugins = '[plugins]\nenable = ["jsonevents"]' if enabled else ""
        env = {engine_jsonevents.FILE: file} if file else {}
        self.engine = EngineProcess(self.folder, toml("event_tasks", rest=plugins), env=env)
        return self.engine.start()

    def send(self, name: str, *args: Any, **options: Any) -> AsyncResult[Any]:
        """Sends a task."""
        return self.client.send_task(f"event_tasks.{name}", args, **options)

    def rows(self) -> list[Row]:
        """Returns all lines so far."""
        path = self.folder / EVENTS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def of(self, id: str) -> list[Row]:
        """Returns the events of one task."""
        return [row for row in self.rows() if row.get("id") == id]

    def kinds(self, result: AsyncResult[Any], last: str) -> list[str]:
        """Waits for a task's last event, and returns the kinds of all."""
        wait_for(lambda: self.of(result.id) and self.of(result.id)[-1]["event"] == last, f"{last} of {result.id}")
        return [row["event"] for row in self.of(result.id)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An engine that is not started yet."""
    made = Site(tmp_path)
    yield made
    made.client.close()
    if made.engine is not None:
        made.engine.close()


def test_every_step_of_a_task_is_a_line(site: Site) -> None:
    engine = site.start()
    added = site.send("add", 1, 2)
    assert site.kinds(added, "succeeded") == ["received", "started", "succeeded"]
    last = site.of(added.id)[-1]
    assert last["task"] == "event_tasks.add"
    assert last["engine"] == "test"
    assert last["queue"] == "default"
    assert 0 <= last["runtime"] < 20
    assert abs(last["time"] - time.time()) < 60
    assert isinstance(last["child"], int)
    assert [row.get("child") for row in site.of(added.id)] == [None, last["child"], last["child"]]
    assert site.kinds(site.send("early"), "succeeded") == ["received", "started", "succeeded"]
    failed = site.send("fail")
    assert site.kinds(failed, "failed") == ["received", "started", "failed"]
    assert site.of(failed.id)[-1]["reason"] == "ValueError: no apples"
    tracked = site.send("tracked")
    assert site.kinds(tracked, "succeeded") == ["received", "started", "succeeded"], "its start is told once"
    assert {row["task"] for row in site.of(tracked.id)} == {"event_tasks.tracked"}
    assert len({row["child"] for row in site.of(tracked.id)[1:]}) == 1
    again = site.send("again")
    once = ["received", "started"]
    assert site.kinds(again, "succeeded") == [*once, "retried", *once, "succeeded"]
    assert [row["retries"] for row in site.of(again.id)] == [0, 0, 0, 1, 1, 1]
    assert engine.stop() == 0
    assert [row["event"] for row in (site.rows()[0], site.rows()[-1])] == ["worker_started", "worker_stopped"]


def test_abnormal_ends_are_named(site: Site) -> None:
    late = site.send("add", 1, 2, expires=0)
    engine = site.start()
    assert site.kinds(late, "revoked")[-1] == "revoked"
    died = site.send("die")
    site.kinds(died, "dead")
    for delivery, end in ((1, "lost"), (2, "lost"), (3, "dead")):
        run = [row["event"] for row in site.of(died.id) if row["deliveries"] == delivery]
        assert run == ["received", "started", end]
    children = [row["child"] for row in site.of(died.id) if row["event"] != "received"]
    assert children[::2] == children[1::2], "the same child in a run's start and end"
    assert len(set(children)) == 3
    assert all(0 < row["runtime"] < 60 for row in site.of(died.id) if row["event"] in ("lost", "dead"))
    assert "exit status 3" in site.of(died.id)[-1]["reason"]
    ends = [row for row in site.of(died.id) if row["event"] in ("lost", "dead")]
    assert [(row["queue"], row["deliveries"]) for row in ends] == [("default", 1), ("default", 2), ("default", 3)]
    unknown = site.send("nobody")
    assert site.kinds(unknown, "dead")[-1] == "dead"
    slept = site.send("sleep", 60)
    wait_for(lambda: engine.running("event_tasks.sleep"), "the task to run")
    engine.ask("quit")
    engine.wait()
    assert site.kinds(slept, "released") == ["received", "started", "released"]
    assert "child" in site.of(slept.id)[-1]


def test_without_a_file_the_lines_go_to_stderr(site: Site) -> None:
    engine = site.start(file=None)
    added = site.send("add", 1, 2)
    wait_for(lambda: f'"id":"{added.id}"' in engine.log and "succeeded" in engine.log, "the line in the log")
    lines = [json.loads(line) for line in engine.log.splitlines() if line.startswith("{")]
    assert "succeeded" in [line["event"] for line in lines]


def test_it_is_off_unless_it_is_enabled(site: Site) -> None:
    site.start(enabled=False)
    assert site.send("add", 1, 2).get(timeout=20) == 3
    assert site.rows() == []


def test_a_file_that_was_rotated_away_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = Lines(str(path))
    lines.write([{"event": "a"}, {"event": "b"}])
    path.rename(tmp_path / "log.1")
    lines.write([])
    lines.write([{"event": "c", "time": 1.0}])
    assert [json.loads(line)["event"] for line in (tmp_path / "log.1").read_text().splitlines()] == ["a", "b"]
    assert path.read_text() == '{"event":"c","time":1.0}\n'


def test_what_is_not_known_is_left_out() -> None:
    line = engine_jsonevents.line_of(Event("lost", 1.5, "t", "a", reason="SIGKILL"), "demo")
    assert line == {
        "event": "lost",
        "time": 1.5,
        "engine": "demo",
        "task": "t",
        "id": "a",
        "retries": 0,
        "deliveries": 1,
        "reason": "SIGKILL",
    }


def test_a_file_that_cannot_be_written_is_logged_and_holds_nothing_up(site: Site) -> None:
    engine = site.start(file="no-such-folder/events")
    assert site.send("add", 1, 2).get(timeout=20) == 3
    wait_for(lambda: "plugin jsonevents: engine_events failed" in engine.log, "the line in the log")


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:5]))
    Lines(str(tmp_path / "log")).write([{"event": "a", "time": 1.0}])
    assert (tmp_path / "log").read_text() == '{"event":"a","time":1.0}\n'
