"""Tasks that are acknowledged before they start."""

from __future__ import annotations

import threading

from dispatcher_rig import DEADLINE, Rig, body_of, message, pending, wait_for

from engine.app import commands
from engine.contract import Record
from engine.contract.transport import Ack, Again, Release
from engine.runtime import control


def test_it_is_acknowledged_before_it_is_handed_out(rig: Rig) -> None:
    rig.publish(message("a", "t.early"))
    packet = rig.take()
    assert packet is not None
    assert packet.claim == b""
    assert rig.place("a") is None
    child = rig.children[0]
    child.begin(packet)
    child.end(packet)
    rig.wait_state("a", "SUCCESS")
    wait_for(lambda: rig.unsettled_bytes() == 0, "the packet to be consumed")


def test_only_as_many_are_acknowledged_as_children_are_idle(rig: Rig) -> None:
    rig.publish(*[message(f"m{n}", "t.early") for n in range(10)])
    first = rig.children[0].take()
    second = rig.children[1].take()
    assert rig.take(timeout=0.2) is None
    assert sum(rig.place(f"m{n}") is None for n in range(10)) == 2
    rig.children[0].end(first)
    third = rig.children[0].take()
    rig.children[0].end(third)
    rig.children[1].end(second)
    for _ in range(7):
        rig.children[0].end(rig.children[0].take())
    for n in range(10):
        rig.wait_state(f"m{n}", "SUCCESS")


def test_one_that_no_child_started_is_published_again(rig: Rig) -> None:
    rig.publish(message("a", "t.early"))
    wait_for(lambda: rig.place("a") is None, "it to be acknowledged")
    rig.tell(control.Drain())
    rig.wait_place("a", "ready")


def test_one_that_a_child_returns_unstarted_is_published_again(rig: Rig) -> None:
    rig.publish(message("a", "t.early"))
    child = rig.children[0]
    packet = child.take()
    child.end(packet, Release(b""), started=False)
    packet = child.take()
    child.end(packet)
    rig.wait_state("a", "SUCCESS")
    assert rig.served.called("publish")


def test_one_that_is_revoked_while_it_is_acknowledged_does_not_run(rig: Rig) -> None:
    acknowledge = threading.Event()
    rig.served.after = lambda method, args: acknowledge.wait(DEADLINE) and None if method == "settle" else None
    rig.publish(message("a", "t.early"))
    rig.wait_place("a", None)
    rig.served.transport.broadcast(commands.encode(commands.Revoke(["a"])))
    heard = len(rig.served.called("commands"))
    wait_for(lambda: len(rig.served.called("commands")) > heard + 2, "the revocation to be heard")
    acknowledge.set()
    rig.wait_state("a", "REVOKED")
    assert not rig.served.called("publish"), "it was handed out, and given back as no child took it"
    assert rig.take(timeout=0.1) is None


def test_its_retry_is_published(rig: Rig) -> None:
    rig.publish(message("a", "t.early"))
    child = rig.children[0]
    packet = child.take()
    record = Record("a", "RETRY", 1000.0, 0, 1, b"{}")
    child.end(packet, Again(b"", message("a", "t.early", retries=1, eta=9e9).envelope(), record), state="RETRY")
    rig.wait_state("a", "RETRY")
    rig.wait_place("a", "delayed")


def test_its_record_alone_is_stored(rig: Rig) -> None:
    rig.publish(message("a", "t.early"))
    child = rig.children[0]
    packet = child.take()
    child.end(packet, Ack(b"", Record("a", "SUCCESS", 1000.0, 0, 1, b"{}", final=True)))
    rig.wait_state("a", "SUCCESS")
    assert all(settlement.claim for (batch,) in rig.served.called("settle") for settlement in batch)


def test_one_whose_process_dies_is_lost(rig: Rig) -> None:
    rig.publish(message("a", "t.early"))
    child = rig.children[0]
    child.die(child.take())
    failure = body_of(rig.wait_state("a", "FAILURE")).failure
    assert failure is not None
    assert (failure.type, failure.text) == ("WorkerLostError", "SIGKILL")
    assert rig.place("a") is None


def test_one_whose_process_dies_after_the_dispatcher_did_is_lost_too(rig: Rig) -> None:
    rig.publish(message("a", "t.early"))
    child = rig.children[0]
    packet = child.take()
    rig.kill()
    child.die(packet)
    rig.start()
    assert body_of(rig.wait_state("a", "FAILURE")).task in ("t.noop", "?")


def test_one_that_was_acknowledged_survives_the_dispatcher(rig: Rig) -> None:
    rig.publish(message("a", "t.early"))
    wait_for(lambda: rig.place("a") is None, "it to be acknowledged")
    wait_for(lambda: pending(rig.inlet) > 0, "it to lie in the hand-off socket")
    rig.kill()
    rig.start()
    rig.compared(2)
    packet = rig.children[0].take()
    assert packet.sequence >> 40 == 2
    rig.children[0].end(packet)
    rig.wait_state("a", "SUCCESS")
