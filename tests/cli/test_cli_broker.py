"""The verbs that look after a broker."""

from __future__ import annotations

import io
import time

import pytest
from playground import Board, Engine


def test_queues(engine: Engine, board: Board) -> None:
    board.send("a")
    board.send("b", queue="slow")
    board.send("c", eta=time.time() + 600)
    board.kill("d", "no such task", queue="odd")
    board.transport.pause("slow", True)
    assert engine("queues").lines == [
        ["QUEUE", "READY", "DELAYED", "CLAIMED", "DEAD"],
        ["default", "1", "1", "0", "0"],
        ["odd", "0", "0", "0", "1"],
        ["slow", "1", "0", "0", "0", "paused"],
    ]
    found = engine("queues", "slow", "--json").json
    assert found == {"slow": {"ready": 1, "delayed": 0, "claimed": 0, "dead": 0, "paused": True}}


def test_pause_and_resume(engine: Engine, board: Board) -> None:
    board.send("a")
    assert engine("pause", "default").status == 0
    assert board.transport.counts(["default"])["default"].paused
    assert "goes on" in engine("resume", "default").err
    assert not board.transport.counts(["default"])["default"].paused


def test_purge_asks(engine: Engine, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.send("a")
    board.send("b")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    ended = engine("purge", "default", "reports")
    assert ended.status == 130
    assert "Delete the messages that wait in default (2), reports (0)? [y/N]: " in ended.err
    assert ended.err.endswith("engine: nothing was done (--yes does not ask)\n")
    assert board.transport.counts(["default"])["default"].ready == 2
    assert engine("purge", "default", "--yes").err == "2 messages of default deleted\n"
    assert board.transport.counts(["default"])["default"].ready == 0


def test_scheduled(engine: Engine, board: Board) -> None:
    due = time.time() + 600
    board.send("later", eta=due + 600, retries=2)
    board.send("soon", eta=due)
    first, second = engine("scheduled", "--json").json
    assert first == {"id": "soon", "task": "shop.bill", "queue": "default", "due": due, "retries": 0}
    assert (second["id"], second["retries"]) == ("later", 2)
    header, row, *_ = engine("scheduled", "--limit", "1").lines
    assert header == ["ID", "TASK", "QUEUE", "DUE", "IN", "RETRIES"]
    assert row[:3] == ["soon", "shop.bill", "default"]


def test_dead_letters_are_listed_and_shown(engine: Engine, board: Board) -> None:
    board.kill("a", "unknown task shop.bill\nsecond line")
    (row,) = engine("dead", "list").lines[1:]
    assert row[:3] == ["a", "shop.bill", "default"]
    assert row[-3:] == ["unknown", "task", "shop.bill"]
    (plain,) = engine("dead", "list", "--json").json
    assert plain["reason"] == "unknown task shop.bill\nsecond line"
    shown = engine("dead", "show", "a")
    assert "reason:     unknown task shop.bill\nsecond line" in shown.out
    assert '"task":"shop.bill"' in shown.out
    assert '"id":"a"' in engine("dead", "show", "a", "--json").json["message"]


def test_a_dead_letter_that_is_none(engine: Engine, board: Board) -> None:
    ended = engine("dead", "show", "nobody")
    assert (ended.status, ended.err) == (
        1,
        "engine: there is no dead letter nobody: `engine dead list` shows their ids\n",
    )


def test_dead_letters_are_replayed(engine: Engine, board: Board) -> None:
    for id in ("a", "b", "c"):
        board.kill(id, "odd")
    ended = engine("dead", "replay", "a", "nobody")
    assert ended.status == 1
    assert ended.err == "1 dead letter put back\nengine: 1 of 2 ids named no dead letter\n"
    assert engine("dead", "replay", "--all").err == "2 dead letters put back\n"
    assert board.transport.counts(["default"])["default"].ready == 3


def test_dead_letters_are_dropped(engine: Engine, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.kill("a", "odd")
    board.kill("b", "odd", queue="slow")
    monkeypatch.setattr("click.confirm", _answer_no)
    assert engine("dead", "drop", "--all").status == 130
    assert engine("dead", "drop", "--all", "--queue", "slow", "--yes").status == 0
    assert [letter.id for letter in board.transport.dead()] == ["a"]


@pytest.mark.parametrize("arguments", [("replay",), ("drop", "a", "--all"), ("drop",)])
def test_which_dead_letters_must_be_said(engine: Engine, board: Board, arguments: tuple[str, ...]) -> None:
    for broker in ((), ("-c", "nowhere.toml")):  # said before anything is connected to
        ended = engine("dead", *arguments, *broker)
        assert ended.status == 64
        assert "give either IDs or --all" in ended.err


def _answer_no(*_: object, abort: bool = False, **__: object) -> bool:
    assert abort
    raise KeyboardInterrupt
