"""Messages that cannot be run: none stops a worker, each is a dead letter with its reason, seen by ``engine dead``."""

import json
import subprocess
import sys

import pytest

from engine.contract import Envelope
from engine.testing.harness import wait_for


def message(**fields) -> bytes:
    return json.dumps({"v": 1, "id": "x", "task": "tasks.add", "sent": 1.0, **fields}).encode()


CASES = {
    "not-json": (b"\x00\xff not json at all", "malformed"),
    "empty": (b"", "malformed"),
    "a-list": (b"[1, 2, 3]", "malformed"),
    "fields-missing": (b'{"v": 1, "id": "fields-missing"}', "malformed"),
    "wrong-types": (message(id="wrong-types", retries="many"), "malformed"),
    "newer-version": (message(id="newer-version", v=99), "version 99"),
    "unknown-task": (message(id="unknown-task", task="nobody.knows"), "nobody.knows"),
    "arguments-missing": (message(id="arguments-missing", args=[1]), "argument"),
    "arguments-too-many": (message(id="arguments-too-many", args=[1, 2, 3, 4]), "argument"),
    "arguments-no-list": (message(id="arguments-no-list", args="oops"), "args"),
    "unknown-serializer": (message(id="unknown-serializer", serializer="yaml", args="AAAA"), "yaml"),
    "pickle-not-accepted": (message(id="pickle-not-accepted", serializer="pickle", args="gASVAA=="), "pickle"),
    "fifty-megabytes": (b'{"x": "' + b"x" * (50 << 20) + b'"}', "larger"),
    "deep": (b"[" * 100_000, "malformed"),
}


def publish(site, key: str) -> None:
    site.broker(lambda transport: transport.publish([Envelope(key, CASES[key][0])]))


def dead(site) -> dict:
    return {letter.id: letter for letter in site.broker(lambda transport: transport.dead())}


def test_every_kind_ends_as_a_dead_letter_with_its_reason_and_no_child_is_harmed(up):
    engine = up.engines[0]
    before = {row["pid"] for row in engine.children()}
    for key in CASES:
        publish(up, key)
    wait_for(lambda: set(dead(up)) == set(CASES), "all to be dead")
    for key, letter in dead(up).items():
        assert CASES[key][1] in letter.reason, (key, letter.reason)
    assert up.get("add", 1, 2) == 3
    assert {row["pid"] for row in engine.children()} == before
    assert "Traceback" not in engine.log, engine.log
    assert up.broker(lambda transport: transport.counts())["default"].dead == len(CASES)


def test_they_are_seen_by_the_commands_and_can_be_dropped(up):
    publish(up, "not-json")
    publish(up, "unknown-task")
    wait_for(lambda: len(dead(up)) == 2, "both to be dead")

    def run(*args: str) -> str:
        command = [sys.executable, "-m", "engine.cli.main", *args, "-c", str(up.engines[0].config)]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=up.folder, timeout=30).stdout

    assert "malformed" in run("dead", "list")
    assert "nobody.knows" in run("dead", "show", "unknown-task")
    assert json.loads(run("queues", "--json"))
    run("dead", "drop", "--yes", "not-json", "unknown-task")
    assert dead(up) == {}


@pytest.mark.parametrize("key", ["unknown-task", "arguments-missing"])
def test_who_waits_for_the_result_is_told(up, key):
    publish(up, key)
    error = up.client.AsyncResult(key).get(timeout=10, propagate=False)
    assert CASES[key][1] in str(error)
    assert up.client.AsyncResult(key).state == "FAILURE"


def test_an_unknown_task_is_run_by_a_worker_that_knows_it(site):
    engine = site.engine().start()
    result = site.send("added_later", 5)
    wait_for(lambda: len(dead(site)) == 1, "it to be dead")
    assert engine.stop() == 0
    with open(site.folder / "tasks.py", "a") as file:
        file.write("\n\n@app.task\ndef added_later(n: int) -> int:\n    return n * 2\n")
    site.engine().start()
    # A result that was final once is kept by its object: each look takes another one.
    wait_for(lambda: site.client.AsyncResult(result.id).state == "SUCCESS", "it to be replayed")
    assert site.client.AsyncResult(result.id).get(timeout=10) == 10
