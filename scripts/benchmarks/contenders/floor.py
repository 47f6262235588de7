"""The floor: `floor_worker`, and a client that does by hand what it must."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import ledger
from contenders import keeps, setting
from floor_worker import Redis

PIPELINE = 500
_url = urlsplit(setting("BROKER"))
_connection: list[Redis] = []


def noop() -> int:
    """Does nothing."""
    ledger.count()
    return 1


TASKS = {"noop": noop}


def worker(children: int) -> list[str]:
    """See `contenders`."""
    program = Path(__file__).resolve().parents[1] / "floor_worker.py"
    keep = str(int(keeps()))
    return [sys.executable, str(program), str(_url.hostname), str(_url.port), __name__, str(children), keep]


def send(count: int) -> list[str]:
    """See `contenders`."""
    sent = []
    for _ in range(count):
        id, body = _message()
        _redis().call("RPUSH", "floor:queue", body)
        sent.append(id)
    return sent


def send_bulk(count: int) -> list[str]:
    """See `contenders`."""
    sent = []
    for start in range(0, count, PIPELINE):
        messages = [_message() for _ in range(min(PIPELINE, count - start))]
        _redis().call("RPUSH", "floor:queue", *(body for _, body in messages))
        sent += [id for id, _ in messages]
    return sent


def kept(sent: list[str]) -> int:
    """See `contenders`."""
    return sum(_redis().call("GET", f"floor:result:{id}") is not None for id in sent)


def _redis() -> Redis:
    if not _connection:
        _connection.append(Redis(str(_url.hostname), int(_url.port or 6379)))
    return _connection[0]


def _message() -> tuple[str, str]:
    id = str(uuid.uuid4())
    return id, json.dumps({"id": id, "task": "noop", "args": [], "kwargs": {}})
