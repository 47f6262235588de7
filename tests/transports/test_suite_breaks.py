"""The suite catches a transport that breaks a promise, and says which: the memory transport, broken in one place."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.contract import Ack, Again, Batch, Settlement
from engine.testing import transport_suite_kit
from engine.testing.transport_suite import TransportSuite
from engine.testing.transport_suite_kit import Rig
from engine_memory import MemoryTransport
from engine_memory.broker import Broker
from engine_memory.entry import DeadEntry
from engine_memory.transport import MemoryConsumer

Breaks = Callable[[pytest.MonkeyPatch], None]


def _at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_back(broker: Broker, entries: list[Any]) -> None:
        for entry in entries:
            entry.started = False
            broker.add(entry, 0.0)

    monkeypatch.setattr(Broker, "give_back", give_back)


def _still_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broker, "give_back", lambda broker, entries: broker.lines.put_back(entries))


def _one_delivery_more(monkeypatch: pytest.MonkeyPatch) -> None:
    made = DeadEntry.__init__

    def make(dead: DeadEntry, entry: Any, *arguments: Any) -> None:
        entry.deliveries += 1
        made(dead, entry, *arguments)

    monkeypatch.setattr(DeadEntry, "__init__", make)


def _one_crash_more(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Broker.take_over
    monkeypatch.setattr(
        Broker, "take_over", lambda broker, dead, crashes, deliveries: right(broker, dead, crashes + 1, deliveries)
    )


def _equal_numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_new(broker: Broker, batch: Batch, now: float) -> bool:
        last = broker._producers.get(batch.producer, (-1, now))[0]
        broker._producers[batch.producer] = (batch.number, now)
        return batch.number != last

    monkeypatch.setattr(Broker, "_is_new", is_new)


def _replays_over_the_living(monkeypatch: pytest.MonkeyPatch) -> None:
    def replay(broker: Broker, ids: Sequence[str]) -> int:
        found = [id for id in ids if id in broker.dead]
        for id in found:
            broker.add(broker.dead.pop(id).revived(), 0.0)
        return len(found)

    monkeypatch.setattr(Broker, "replay", replay)


def _retries_in_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    settle, find = MemoryConsumer.settle, MemoryTransport.find
    nowhere: list[str] = []
    looked_at_nothing = threading.Event()

    def found(transport: MemoryTransport, id: str) -> Any:
        place = find(transport, id)
        if place is None and id in nowhere:
            looked_at_nothing.set()
        return place

    def settled(consumer: MemoryConsumer, settlements: Sequence[Settlement]) -> Sequence[bytes]:
        (one,) = settlements
        assert isinstance(one, Again)
        stale = settle(consumer, [Ack(one.claim)])
        nowhere.append(one.envelope.id)
        assert looked_at_nothing.wait(transport_suite_kit.DEADLINE), "nobody looks"
        with consumer._broker.changed:
            consumer._broker.publish((one.envelope,), None)
        return stale

    monkeypatch.setattr(MemoryConsumer, "settle", settled)
    monkeypatch.setattr(MemoryTransport, "find", found)


def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_suite_kit, "SOON", 0.3)
    monkeypatch.setattr(transport_suite_kit, "LONGEST_WAIT", 0.6)


def _deaf_to_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    _impatient(monkeypatch)
    right = MemoryConsumer.fetch

    def fetch(consumer: MemoryConsumer, limit: int, timeout: float) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(MemoryConsumer, "_has_commands", lambda consumer: False)
            return right(consumer, limit, timeout)

    monkeypatch.setattr(MemoryConsumer, "fetch", fetch)


def _opens_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MemoryTransport.__init__

    def make(transport: Any, url: str, *, options: Any) -> None:
        right(transport, url, options=options)
        transport.file = open("/dev/zero", "rb")  # noqa: SIM115 - that it stays open is the fault

    def close(transport: Any) -> None:
        transport.file.close()

    monkeypatch.setattr(MemoryTransport, "__init__", make)
    monkeypatch.setattr(MemoryTransport, "close", close)


BREAKS: list[tuple[Breaks, str, str]] = [
    (_at_the_end, "test_what_is_taken_over_goes_back_to_where_it_stood", "they go back to where they stood"),
    (_still_started, "test_a_run_that_was_given_back_has_not_started", "belongs to its claim, and ends with it"),
    (_one_delivery_more, "test_a_dead_letter_has_the_deliveries_that_there_were", "those of its last Delivery"),
    (_one_delivery_more, "test_the_crash_limit_makes_a_dead_letter", "the last delivery is one of the three"),
    (_one_crash_more, "test_the_crash_limit_makes_a_dead_letter", "with max_crashes=3 crash number 3 makes the dead"),
    (
        _equal_numbers_only,
        "test_a_batch_with_an_earlier_number_is_a_repetition",
        "not greater than the producer's last",
    ),
    (_replays_over_the_living, "test_a_replay_leaves_a_message_alone_whose_id_is_alive", "its dead letter stays one"),
    (_retries_in_two_steps, "test_a_retried_message_is_in_one_place_at_every_moment", "find() saw the message nowhere"),
    (
        _deaf_to_commands,
        "test_a_waiting_fetch_returns_early_for_a_command",
        "did not return within 0.3 s of a broadcast",
    ),
    (_opens_a_file, "test_making_a_transport_and_a_consumer_does_not_connect", "wait for the first use"),
]


@pytest.mark.parametrize(("breaks", "test", "told"), BREAKS, ids=[f"{one[0].__name__}-{one[1]}" for one in BREAKS])
def test_a_broken_promise_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: Breaks, test: str, told: str
) -> None:
    _run(test, tmp_path / "whole")
    breaks(monkeypatch)
    with pytest.raises(AssertionError) as failed:
        _run(test, tmp_path / "broken")
    assert told in str(failed.value)


def _run(test: str, folder: Path) -> None:
    folder.mkdir()
    arguments = {"end": "released"} if test.endswith("has_not_started") else {}
    with (
        contextlib.closing(MemoryTransport(f"memory://{folder}", options={})) as transport,
        contextlib.closing(Rig(transport, folder, {})) as rig,
    ):
        getattr(TransportSuite(), test)(rig, **arguments)
