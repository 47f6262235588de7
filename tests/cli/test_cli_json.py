"""What ``--json`` prints is what docs/operations.md promises to programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.testing.harness import EngineProcess, toml

ROOT = Path(__file__).parents[2]
APP = """
from engine import Engine
app = Engine("shop")

@app.task
def add(x, y): return x + y

@app.task(acks_late=True, acks_on_failure_or_timeout=False)
def fail(): raise ValueError("no such order")
"""
NOT_SEEN_HERE = {"serializer", "ok", "note", "warning", "later"}
"""Of a result that is not JSON; and the words that a level may be."""


def documented() -> dict[str, set[str]]:
    """The keys of each command, as the table names them."""
    text = (ROOT / "docs/operations.md").read_text()
    table = text.split("<!-- json -->")[1].split("<!-- end of json -->")[0]
    rows = re.findall(r"^\| `(engine [a-z ]+)` \| [^|]* \| ([^|]*) \|$", table, re.MULTILINE)
    return {command: set(re.findall(r"`([a-z_]+)`", keys)) for command, keys in rows}


def keys_in(printed: Any, *, by_name: bool = False) -> set[str]:
    """All keys of the objects in what was printed; of those that are ``by_name``, the keys of their values."""
    if isinstance(printed, list):
        return set().union(*(keys_in(value) for value in printed))
    if not isinstance(printed, dict):
        return set()
    inner = set().union(*(keys_in(value, by_name=key == "settings") for key, value in printed.items()))
    return inner if by_name else inner | set(printed)


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineProcess]:
    path = [str(ROOT / part) for part in (".", "transports", "plugins")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    (tmp_path / "shop.py").write_text(APP)
    engine = EngineProcess(tmp_path, toml("shop", broker="sqlite:///engine.db"))
    try:
        yield engine.start()
    finally:
        engine.close()


def test_every_json_output_has_the_keys_of_the_table(running: EngineProcess) -> None:
    def printed(*arguments: str) -> Any:
        command = [sys.executable, "-m", "engine.cli.main", *arguments, "--json"]
        done = subprocess.run(
            command, cwd=running.folder, env=running.env, capture_output=True, text=True, timeout=60, check=False
        )
        (line,) = done.stdout.splitlines()
        return json.loads(line)

    ended = printed("send", "shop.add", "1", "2", "--wait", "--timeout", "20s")
    failed = printed("send", "shop.fail", "--wait", "--timeout", "20s")
    sent = printed("send", "shop.add", "1", "2", "--countdown", "1h")
    waiting = printed("result", sent["id"])
    dead = printed("dead", "list")
    shown = printed("dead", "show", failed["id"])
    outputs = {
        "engine send": sent,
        "engine result": [ended, failed, waiting],
        "engine status": printed("status"),
        "engine scheduled": printed("scheduled"),
        "engine dead list": dead,
        "engine check": printed("check"),
        "engine plugins": printed("plugins"),
        "engine plugin check": printed("plugin", "check", "memory"),
    }
    table = documented()
    named = {command: keys_in(value) for command, value in outputs.items()}
    named["engine queues"] = keys_in(printed("queues"), by_name=True)
    assert keys_in(shown) - keys_in(dead) == table.pop("engine dead show") == {"message"}
    promised = {command: keys - NOT_SEEN_HERE - {"error"} for command, keys in table.items()}
    assert {command: keys - {"error"} for command, keys in named.items()} == promised
    assert "error" in table["engine result"] & named["engine result"]
