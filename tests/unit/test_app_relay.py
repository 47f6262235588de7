"""The broker as a child sees it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from app_fakes import Bench

from engine import TransportError
from engine.app.relay import RelayResults, RelayTransport
from engine.contract import Capabilities


class Dispatcher:
    """Answers calls, and remembers which there were."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.calls: list[str] = []

    def __call__(self, method: str, args: bytes) -> bytes:
        self.calls.append(method)
        return msgspec.msgpack.encode(self.answers[method])


def test_what_the_broker_can_do_is_asked_once_and_only_when_it_matters(bench: Bench) -> None:
    dispatcher = Dispatcher({"capabilities": Capabilities(revokes=True), "revoke": [], "counts": {}})
    bench.app.client.use(RelayTransport(dispatcher), None)
    bench.app.client.broker(lambda transport: transport.counts())
    assert dispatcher.calls == ["counts"]
    for _ in range(2):
        bench.app.revoke(["x"])
    assert dispatcher.calls == ["counts", "capabilities", "revoke", "revoke"], "nobody would hear a broadcast"


def test_a_task_is_told_that_the_broker_records_no_revocation(bench: Bench) -> None:
    dispatcher = Dispatcher({"capabilities": Capabilities(), "revoke": []})
    bench.app.client.use(RelayTransport(dispatcher), RelayResults(dispatcher))
    with pytest.raises(TransportError, match="does not record revocations"):
        bench.app.revoke(["x"])
