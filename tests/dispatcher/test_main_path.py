"""From the broker to a child and back."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import msgspec
import pytest
from dispatcher_rig import Rig, message, wait_for

from engine.app import wire
from engine.app.config.loader import dump
from engine.contract import Batch, Envelope, Record
from engine.contract.results import STARTED
from engine.contract.transport import Ack, Again, Release, Settlement
from engine.errors import BrokerUnavailable, MessageError
from engine.runtime import control


def test_a_message_is_handed_out_as_it_came_and_settled_with_its_record(rig: Rig) -> None:
    one = message("a", queue="default", priority=3)
    rig.publish(one)
    packet = rig.children[0].take()
    assert (packet.body, packet.queue, packet.deliveries, packet.crashes) == (one.encode(), "default", 1, 0)
    assert rig.place("a") == "claimed"
    rig.children[0].end(packet)
    rig.wait_state("a", "SUCCESS")
    rig.wait_place("a", None)
    wait_for(lambda: rig.unsettled_bytes() == 0, "the packet to be consumed")


@pytest.mark.parametrize("shared", [True, False])
def test_the_record_is_there_before_the_message_is_gone(make_rig: Callable[..., Rig], shared: bool) -> None:
    rig = make_rig(shared=shared).start()
    rig.publish(message("a"))
    rig.children[0].end(rig.children[0].take())
    rig.wait_place("a", None)
    assert rig.state("a") == "SUCCESS"
    assert bool(rig.served.called("store")) is not shared


def test_records_written_on_the_way_come_before_the_end(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    wire.post(child.link, wire.encode(wire.Stored(packet.sequence, Record("a", STARTED, 1000.0, 0, 1, b"{}"))))
    rig.wait_state("a", STARTED)
    wire.post(child.link, wire.encode(wire.Stored(packet.sequence, Record("a", "HALF", 1000.0, 0, 1, b"{}"))))
    child.end(packet)
    rig.wait_state("a", "SUCCESS")


def test_a_retry_is_one_settlement(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    again = message("a", retries=1, eta=time.time() + 3600).envelope()
    child.end(packet, Again(packet.claim, again, Record("a", "RETRY", 1000.0, 0, 1, b"{}")), state="RETRY")
    rig.wait_state("a", "RETRY")
    rig.wait_place("a", "delayed")


def test_what_follows_from_an_end_is_sent_before_it_is_settled(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    child.end(packet, publishes=[message("b", eta=time.time() + 3600).envelope()])
    rig.wait_state("a", "SUCCESS")
    methods = [name for name, _ in rig.served.calls if name in ("publish", "settle")]
    assert methods.index("publish") < methods.index("settle")
    assert rig.place("b") == "delayed"


def test_a_large_message_and_a_large_outcome_pass(rig: Rig) -> None:
    large = message("a", origin="x" * 1_000_000)
    rig.publish(large)
    child = rig.children[0]
    packet = child.take()
    assert packet.body == large.encode()
    record = Record("a", "SUCCESS", 1000.0, 0, 1, b'"' + b"y" * 2_000_000 + b'"', final=True)
    child.end(packet, Ack(packet.claim, record))
    assert len(rig.wait_state("a", "SUCCESS").body) == len(record.body)
    rig.publish(message("b"))
    child.end(child.take())
    rig.wait_state("b", "SUCCESS")
    wait_for(lambda: rig.unsettled_bytes() == 0, "all packets to be consumed")


def test_short_tasks_pass_a_long_one(rig: Rig) -> None:
    rig.publish(message("long"), *[message(f"s{n}") for n in range(1000)])
    first, second = rig.children
    long = first.take()
    for _ in range(1000):
        second.end(second.take())
    wait_for(lambda: rig.served.transport.counts(["default"])["default"].claimed == 1, "all but one to be settled")
    assert rig.place("long") == "claimed"
    first.end(long)
    rig.wait_state("long", "SUCCESS")


def test_what_no_child_takes_goes_back_to_the_broker(rig: Rig) -> None:
    rig.publish(message("a"))
    rig.wait_place("a", "claimed")
    wait_for(lambda: Release(b"1") in settled(rig), "the message to be released")
    rig.children[0].end(rig.children[0].take())
    rig.wait_state("a", "SUCCESS")


def settled(rig: Rig) -> list[Settlement]:
    """Returns all settlements so far."""
    return [settlement for (batch,) in rig.served.called("settle") for settlement in batch]


def test_finish_settles_and_says_goodbye(rig: Rig) -> None:
    rig.publish(message("a"))
    rig.children[0].end(rig.children[0].take())
    assert rig.finish() == 0
    assert rig.state("a") == "SUCCESS"
    assert rig.served.called("close")


def test_a_drain_returns_what_is_unstarted_and_lets_idle_children_leave(rig: Rig) -> None:
    rig.publish(message("a"), message("b"), message("c"))
    child = rig.children[0]
    packet = child.take()
    rig.wait_place("b", "claimed")
    rig.tell(control.Drain())
    rig.wait_place("b", "ready")
    rig.wait_place("c", "ready")
    assert wire.receive(rig.inlet) == b""
    child.end(packet)
    rig.wait_state("a", "SUCCESS")
    rig.tell(control.Finish())
    assert rig.exit_status() == 0
    assert rig.place("b") == "ready"


def test_a_new_generation_gets_what_the_old_one_had_not_started(rig: Rig) -> None:
    rig.publish(message("a"))
    wait_for(lambda: rig.place("a") == "claimed", "the message to be fetched")
    outlet, inlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rig.generations.append((2, outlet, inlet))
    rig.tell(control.AddGeneration(2, rig.tasks), outlet.fileno(), inlet.fileno())
    rig.tell(control.RetireGeneration(1))
    old, rig.inlet = rig.inlet, inlet
    packet = rig.children[0].take()
    assert wire.receive(old) == b""
    rig.children[0].end(packet)
    rig.wait_state("a", "SUCCESS")


def test_a_reload_changes_the_settings(rig: Rig) -> None:
    worker = msgspec.structs.replace(rig.settings.worker, queues=["other"], accept=["json", "pickle"], max_crashes=1)
    rig.publish(message("a", queue="other", serializer="pickle"))
    assert rig.take(timeout=0.1) is None
    rig.tell(control.Reconfigure(dump(msgspec.structs.replace(rig.settings, worker=worker))))
    packet = rig.children[0].take()
    assert packet.queue == "other"
    rig.children[0].die(packet)
    rig.wait_state("a", "FAILURE")


def test_the_first_child_tells_the_tasks_when_nothing_is_preloaded(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(preload=False, tasks=[]).start()
    rig.publish(message("a"))
    assert rig.take(timeout=0.3) is None
    told = [wire.TaskInfo("t.noop", acks_late=True)]
    wire.post(rig.children[0].link, wire.encode(wire.Registry(1, told)))
    assert rig.hear() == control.Tasks(1, told)
    rig.children[0].end(rig.children[0].take())
    rig.wait_state("a", "SUCCESS")


def test_a_broker_that_cannot_be_used_fails_the_boot(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(broker="nothing://").start(ready=False)
    failed = rig.hear()
    assert isinstance(failed, control.Failed)
    assert failed.status == 78
    assert "nothing" in failed.line
    assert rig.exit_status() == 78


def test_a_broker_that_is_down_fails_the_boot_for_now(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.served.fault = lambda method, args: BrokerUnavailable("not now") if method == "counts" else None
    rig.start(ready=False)
    assert rig.hear() == control.Failed(75, "[broker] not now (an engine starts once its servers answer)")
    assert rig.exit_status() == 75


def test_what_leaves_a_lane_ends_the_dispatcher(rig: Rig) -> None:
    rig.served.fault = lambda method, args: MessageError("a bug") if method == "fetch" else None
    assert rig.exit_status() == 70
    assert "the fetch lane failed" in rig.log


def test_a_supervisor_that_is_gone_ends_the_dispatcher(rig: Rig) -> None:
    assert rig.control is not None
    rig.control.close()
    assert rig.exit_status() == 1


def test_publishing_an_outcome_names_its_slot_and_sequence(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[1]
    packet = child.take()
    batches: list[Batch | None] = []
    publish = rig.served.transport.publish

    def spy(envelopes: list[Envelope], *, batch: Batch | None = None) -> None:
        batches.append(batch)
        publish(envelopes, batch=batch)

    rig.served.transport.publish = spy  # type: ignore[method-assign,assignment]
    child.end(packet, publishes=[message("b").envelope()])
    rig.wait_state("a", "SUCCESS")
    assert batches == [Batch("w1.slot.1", packet.sequence)]
