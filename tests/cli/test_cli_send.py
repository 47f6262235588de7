"""engine send and engine result, up to the broker."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from playground import Board, Engine

from engine.app import registry
from engine.app.settings import Settings
from engine.contract.message import Message
from engine.contract.results import FAILURE, SUCCESS, Body, Failure, Record
from engine_memory import MemoryResults

APP = """
from engine import Engine
app = Engine("shop")

@app.task(queue="slow")
def bill(order, currency="EUR", **more): ...
"""
CONFIG = """
[engine]
app = "shop_app"
[broker]
url = "board://"
[plugins]
load = ["board.py"]
"""
PLUGIN = """
import msgspec
from engine.contract import hookimpl
from engine_memory import MemoryTransport

class Board(MemoryTransport):
    capabilities = msgspec.structs.replace(MemoryTransport.capabilities, in_process=False)
    def __init__(self, url, *, options):
        super().__init__({url!r}, options=options)

@hookimpl
def engine_transport(scheme):
    return Board if scheme == "board" else None
"""


@pytest.fixture
def shop(folder: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """An app that is configured, and its broker."""
    monkeypatch.setattr(registry._state, "current", registry._state.current)
    (folder / "shop_app.py").write_text(APP)
    (folder / "board.py").write_text(PLUGIN.format(url=board.transport.url))
    (folder / "worker.toml").write_text(CONFIG)
    yield board
    sys.modules.pop("shop_app", None)


@pytest.fixture
def backend(folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> MemoryResults:
    """A result backend in this process."""
    results = MemoryResults(f"memory://{request.node.name}", expires=60.0, options={})

    def connected(settings: Settings) -> MemoryResults:
        assert isinstance(settings, Settings)
        return results

    monkeypatch.setattr("engine.cli.result.results_for", connected)
    return results


def _sent(board: Board, queue: str) -> Message:
    consumer = board.transport.consume([queue], board.worker)
    (delivery,) = consumer.fetch(10, 1.0)
    consumer.close()
    return Message.decode(delivery.body)


def _record(id: str, state: str, **body: object) -> Record:
    encoded = msgspec.json.encode(Body(state=state, task="shop.bill", date=1e9, **body))  # type: ignore[arg-type]
    return Record(id, state, 1e9, 0, 1, encoded, final=state in (SUCCESS, FAILURE))


def test_arguments_are_json_or_text(engine: Engine, shop: Board) -> None:
    ended = engine("send", "shop_app.bill", "17", "currency", "-k", "dry=true", "--kwargs", '{"a": [1], "dry": 0}')
    message = _sent(shop, "slow")
    assert (ended.status, ended.out) == (0, message.id + "\n")
    assert json.loads(bytes(message.args)) == [17, "currency"]
    assert json.loads(bytes(message.kwargs)) == {"a": [1], "dry": True}
    assert message.task == "shop_app.bill"


def test_call_options(engine: Engine, shop: Board) -> None:
    before = time.time()
    ended = engine(
        "send", "shop_app.bill", '"3"', "--id", "x1", "-q", "other", "--countdown", "1m", "--expires", "1h",
        "--priority", "9", "--json",
    )  # fmt: skip
    assert ended.json == {"id": "x1"}
    (delayed,) = shop.transport.scheduled()
    message = Message.decode(delayed.body)
    assert message.eta is not None
    assert message.expires is not None
    assert before + 60 <= message.eta <= time.time() + 60
    assert before + 3600 <= message.expires <= time.time() + 3600
    assert (message.id, message.queue, message.priority) == ("x1", "other", 9)
    assert json.loads(bytes(message.args)) == ["3"]


def test_an_unknown_task_is_not_sent_unless_that_is_said(engine: Engine, shop: Board) -> None:
    ended = engine("send", "shop_app.bil")
    assert ended.status == 78
    assert "there is no task 'shop_app.bil', did you mean \"shop_app.bill\"? (--no-import sends it" in ended.err
    assert "there is no task 'bill', did you mean \"shop_app.bill\"?" in engine("send", "bill").err
    assert "there is no task 'dance': the app has shop_app.bill" in engine("send", "dance").err
    assert engine("send", "shop_app.bil", "--no-import").status == 0
    assert _sent(shop, "default").task == "shop_app.bil"


@pytest.mark.parametrize(
    ("config", "status", "said"),
    [
        ("", 78, "engine: no result backend to wait for: write url = ... under [results], or leave --wait out"),
        (
            '[results]\nurl = "memory://here"\n[tasks]\nignore_result = true\n',
            64,
            "engine: shop_app.bill keeps no result (ignore_result), so its end is not seen: leave --wait out",
        ),
    ],
)
def test_what_cannot_be_waited_for_is_not_sent(
    engine: Engine, shop: Board, folder: Path, config: str, status: int, said: str
) -> None:
    (folder / "worker.toml").write_text(CONFIG + config)
    ended = engine("send", "shop_app.bill", "17", "--wait")
    assert ended.status == status
    assert ended.err.startswith(said)
    assert shop.transport.counts() == {}
    assert engine("send", "shop_app.bill", "17").status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("-k", "a"), 64, "-k takes KEY=VALUE, not 'a'"),
        (("-k", "a b=1"), 64, "-k takes KEY=VALUE"),
        (("--kwargs", "{"), 64, "--kwargs is not JSON"),
        (("--kwargs", "[1]"), 64, '--kwargs takes a JSON object such as {"key": 1}'),
        (("[1, 2",), 64, "[1, 2 begins as JSON does and is none: Expecting ',' delimiter"),
        (("-k", 'order={"a"'), 64, '{"a" begins as JSON does and is none'),
        (("--priority", "10"), 64, "10 is not in the range 0<=x<=9"),
        ((), 64, "shop_app.bill: missing a required argument: 'order'"),
    ],
)
def test_what_cannot_be_sent(engine: Engine, shop: Board, arguments: tuple[str, ...], status: int, said: str) -> None:
    ended = engine("send", "shop_app.bill", *arguments)
    assert (ended.status, said in ended.err, ended.err.count("\n")) == (status, True, 1), ended.err


def test_a_result(engine: Engine, backend: MemoryResults) -> None:
    backend.store([_record("a", SUCCESS, result=msgspec.Raw(b'{"total":3}'), runtime=0.5, worker="w")])
    ended = engine("result", "a")
    assert ended.status == 0
    assert ["state:", "SUCCESS"] in ended.lines
    assert ["result:", '{"total":', "3}"] in ended.lines
    assert ["runtime:", "0.500", "s"] in ended.lines
    found = engine("result", "a", "--json", "--wait").json
    assert (found["result"], found["worker"], found["retries"]) == ({"total": 3}, "w", 0)


def test_a_failure(engine: Engine, backend: MemoryResults) -> None:
    failure = Failure("ValueError", "builtins", "no such order")
    backend.store([_record("a", FAILURE, failure=failure, traceback="Traceback\n  line\n")])
    ended = engine("result", "a")
    assert ended.status == 1
    assert "error:      ValueError: no such order\n" in ended.out
    assert "traceback:\n  Traceback\n    line\n" in ended.out
    assert engine("result", "a", "--json").json["error"]["type"] == "ValueError"


def test_a_state_on_the_way_is_no_failure(engine: Engine, backend: MemoryResults) -> None:
    backend.store([_record("a", "PROGRESS", result=msgspec.Raw(b'{"done":3}'))])
    assert engine("result", "a").status == 0


def test_a_task_without_a_record_is_looked_for_at_the_broker(
    engine: Engine, backend: MemoryResults, shop: Board
) -> None:
    shop.send("b", eta=2e9)
    found = engine("result", "b", "--json").json
    assert found == {
        "id": "b", "state": "PENDING", "place": "delayed", "queue": "default", "task": "shop.bill", "due": 2e9,
    }  # fmt: skip
    ended = engine("result", "nobody")
    assert ended.status == 1
    assert "nobody knows nobody: no record, no message" in ended.err


def test_waiting_ends(engine: Engine, backend: MemoryResults) -> None:
    ended = engine("result", "a", "--wait", "--timeout", "20ms")
    assert (ended.status, ended.err) == (1, "engine: a has not ended in time; `engine result a` looks again\n")


def test_no_result_backend(engine: Engine, folder: Path) -> None:
    ended = engine("result", "a")
    assert ended.status == 78
    assert "no result backend: write url = ... under [results]" in ended.err


def test_revoke(engine: Engine, shop: Board) -> None:
    shop.send("a")
    ended = engine("revoke", "a", "b")
    assert (ended.status, ended.err) == (0, "a revoked\nb revoked\n")
    shop.send("b")
    assert shop.transport.find("a") is None
    consumer = shop.transport.consume(["default"], shop.worker)
    assert all(delivery.revoked for delivery in consumer.fetch(10, 0.0))
    consumer.close()
