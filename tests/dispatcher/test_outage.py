"""A broker or a result backend that is away, refuses, or has forgotten."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from dispatcher_rig import TASKS, Rig, body_of, message, message_id, pending, wait_for

from engine.app import wire
from engine.contract import Record, Worker
from engine.contract.transport import Ack
from engine.errors import BrokerFull, BrokerUnavailable, TransportError

GONE = BrokerUnavailable("served: connection refused")


def test_ends_wait_for_the_broker_and_are_settled_when_it_is_back(rig: Rig) -> None:
    rig.publish(message("a"), message("b"))
    first, second = rig.children
    runs = [first.take(), second.take()]
    rig.served.fault = lambda method, args: GONE
    first.end(runs[0])
    second.end(runs[1])
    rig.logged("broker: served: connection refused")
    rig.served.fault = lambda method, args: None
    for id in "ab":
        rig.wait_state(id, "SUCCESS")
        rig.wait_place(id, None)
    rig.logged("broker: back after")
    assert rig.log.count("broker") < 5
    rig.publish(message("c"))
    first.end(first.take())
    rig.wait_state("c", "SUCCESS")


def test_nothing_is_handed_out_while_claims_may_be_gone(rig: Rig) -> None:
    rig.publish(message("a"), message("b"))
    rig.wait_place("b", "claimed")
    rig.served.fault = lambda method, args: GONE
    rig.logged("broker: served: connection refused")
    wait_for(lambda: pending(rig.inlet) == 0, "the packets to be read back")
    before = len(rig.served.called("reconcile"))
    rig.served.fault = lambda method, args: None
    rig.compared(before + 1)
    for child in rig.children:
        child.end(child.take())
    rig.wait_state("a", "SUCCESS")
    rig.wait_state("b", "SUCCESS")


def test_what_is_no_longer_claimed_is_dropped_and_what_runs_is_refused(rig: Rig) -> None:
    rig.publish(message("a"), message("b"))
    child = rig.children[0]
    packet = child.take()
    rig.wait_place("b", "claimed")
    before = len(rig.served.called("reconcile"))
    # Another worker took the claims over while this one's connection was away.
    rig.served.fault = lambda method, args: GONE
    rig.logged("broker: served: connection refused")
    broker = rig.served.transport._broker
    with broker.changed:
        broker.take_over(broker.members[rig.worker.id], 3, 20)
    rig.served.transport.pause("default", True)
    rig.served.fault = lambda method, args: None
    rig.compared(before + 1)
    child.end(packet)
    rig.logged("task ran here but its end was refused: it is another worker's now, or was settled before")
    assert rig.take(timeout=0.1) is None
    assert rig.state("a") is None
    wait_for(lambda: rig.unsettled_bytes() == 0, "the packet to be consumed")


def test_an_end_that_is_settled_again_after_a_lost_answer_is_told_as_what_it_may_be(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    rig.served.after = lambda method, args: (
        GONE if method == "settle" and len(rig.served.called("settle")) == 1 else None
    )
    child.end(packet)
    rig.logged("was settled before, by a call whose answer was lost [t.noop a]")
    assert rig.state("a") == "SUCCESS"


def test_a_beat_that_an_outage_made_late_is_not_told_of(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claims are compared in any case, as the connection is another. Beats go by a clock of the test's own: on a
    busy machine any of them may be late."""
    seconds = memoryview(mmap.mmap(-1, 8)).cast("d")
    clock = SimpleNamespace(**vars(time) | {"clock_gettime": lambda _: seconds[0]})
    monkeypatch.setattr("engine.runtime.dispatcher.fetch.time", clock)
    rig = make_rig(dead_after=3.0).start()
    rig.compared(1)
    rig.served.fault = lambda method, args: GONE
    rig.logged("broker: served: connection refused")
    seconds[0] += 60.0
    rig.served.fault = lambda method, args: None
    rig.logged("broker: back after")
    rig.compared(2)
    beats = len(rig.served.called("renew"))
    seconds[0] += 1.0
    wait_for(lambda: len(rig.served.called("renew")) > beats, "the next beat")
    assert "the heartbeat was" not in rig.log


def test_a_late_beat_compares_claims(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(dead_after=0.5).start()
    rig.compared(1)
    os.kill(rig.pid, signal.SIGSTOP)
    time.sleep(0.6)  # what is tested is a process that did not run for a while
    os.kill(rig.pid, signal.SIGCONT)
    rig.compared(2)
    rig.logged("the heartbeat was")


def test_ends_wait_for_the_result_backend(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(shared=False).start()
    rig.publish(message("a"))
    child = rig.children[0]
    rig.served.fault = lambda method, args: GONE if method == "store" else None
    child.end(child.take())
    rig.logged("result backend: served: connection refused")
    assert rig.place("a") == "claimed"
    rig.served.fault = lambda method, args: None
    rig.wait_state("a", "SUCCESS")
    rig.wait_place("a", None)


def test_outcomes_stay_in_their_sockets_when_too_much_waits(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runtime.dispatcher.settle.UNSETTLED_BYTES", 1000)
    rig = make_rig().start()
    rig.publish(message("m0"), message("m1"))
    runs = [(child, child.take()) for child in rig.children]
    rig.served.fault = lambda method, args: GONE if method == "settle" else None
    for child, packet in runs:
        record = Record(message_id(packet), "SUCCESS", 1000.0, 0, 1, b"x" * 3000, final=True)
        child.end(packet, Ack(packet.claim, record))
    rig.logged("broker: served: connection refused")
    _wait_until_nothing_is_asked_for(rig)
    rig.publish(*[message(f"m{n}") for n in range(2, 8)])
    assert rig.take(timeout=0.3) is None
    assert rig.unsettled_bytes(0) > 3000
    assert rig.unsettled_bytes(1) > 3000
    rig.served.fault = lambda method, args: None
    for _, packet in runs:
        rig.wait_state(message_id(packet), "SUCCESS")
    child = rig.children[0]
    child.end(child.take())
    wait_for(lambda: rig.unsettled_bytes(0) + rig.unsettled_bytes(1) == 0, "all packets to be consumed")


def _wait_until_nothing_is_asked_for(rig: Rig) -> None:
    """A child that waits may be seen before the end of its run is: until then one more message is asked for."""
    before = len(rig.served.called("fetch"))
    wait_for(lambda: [limit for limit, _ in rig.served.called("fetch")[before:]][-1:] == [0], "a fetch of nothing")


@pytest.mark.parametrize("shared", [True, False])
def test_one_that_is_refused_alone_fails_and_holds_up_no_other(make_rig: Callable[..., Rig], shared: bool) -> None:
    rig = make_rig(shared=shared).start()
    rig.publish(message("bad"), message("good"))
    first, second = rig.children
    runs = [first.take(), second.take()]
    rig.served.fault = _refuse_large
    record = Record("bad", "SUCCESS", 1000.0, 0, 1, b"x" * 5000, final=True)
    first.end(runs[0], Ack(runs[0].claim, record))
    second.end(runs[1])
    rig.wait_state("good", "SUCCESS")
    body = body_of(rig.wait_state("bad", "FAILURE"))
    assert body.failure is not None
    assert "too large for this server" in body.failure.text
    rig.wait_place("bad", "dead")
    wait_for(lambda: rig.unsettled_bytes(0) + rig.unsettled_bytes(1) == 0, "both packets to be consumed")


def _refuse_large(method: str, args: tuple[object, ...]) -> Exception | None:
    if method in ("settle", "store") and len(repr(args)) > 5000:
        return TransportError("too large for this server")
    return None


def test_a_broker_that_is_full_still_hears_of_ends(rig: Rig) -> None:
    rig.publish(message("a"), message("b"), message("c"))
    first, second = rig.children
    rig.served.fault = lambda method, args: (
        BrokerFull("disk full") if method == "settle" and ("'b'" in repr(args) or "'c'" in repr(args)) else None
    )
    for child, _ in ((first, "a"), (second, "b"), (first, "c")):
        child.end(child.take())
    rig.wait_state("a", "SUCCESS")
    assert rig.place("b") == "claimed"
    tried = len(rig.served.called("settle"))
    wait_for(lambda: len(rig.served.called("settle")) > tried + 5, "b and c to be tried again")
    assert rig.log.count("disk full") == 1, "told once, as an outage"
    rig.served.fault = lambda method, args: None
    rig.wait_state("b", "SUCCESS")


def test_what_must_be_published_is_published_when_the_broker_is_back(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    rig.served.fault = lambda method, args: GONE if method == "publish" else None
    child.end(packet, publishes=[message("b", eta=9e9).envelope()])
    rig.logged("broker: served: connection refused")
    assert rig.place("a") == "claimed"
    child.ask("publish", [message("c").envelope()], None)
    assert child.answer().error == "BrokerUnavailable"
    rig.served.fault = lambda method, args: None
    rig.wait_state("a", "SUCCESS")
    assert rig.place("b") == "delayed"


def test_at_the_end_what_cannot_be_settled_is_named(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.kill()
    monkeypatch.setattr("engine.runtime.dispatcher.dispatcher.GIVE_UP_AFTER", 0.3)
    rig.start()
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    rig.served.fault = lambda method, args: GONE
    child.end(packet)
    assert rig.finish() == 1
    assert "not settled, as the broker cannot be reached [t.noop a]" in rig.log
    assert rig.place("a") == "claimed"


def test_a_dead_workers_claims_are_taken_over(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    leave_poison(rig)
    rig.start()
    rig.logged("worker w0 is dead: 1 of its messages were released, 1 dead-lettered")
    assert body_of(rig.wait_state("poison", "FAILURE")).task == "t.noop"
    rig.wait_place("poison", "dead")
    packet = rig.children[0].take()
    assert (message_id(packet), packet.deliveries, packet.crashes) == ("innocent", 2, 0)


def test_nothing_is_taken_over_before_the_tasks_are_known_as_hooks_may_have_to_run(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(preload=False, tasks=[])
    leave_poison(rig, "t.hooked")
    rig.start()
    rig.compared(1)
    assert rig.served.called("renew")
    assert not rig.served.called("takeover")
    wire.post(rig.children[0].link, wire.encode(wire.Registry(1, TASKS)))
    packet = rig.take()
    assert packet is not None
    assert (message_id(packet), packet.end is not None) == ("poison", True), "its hooks go first"


def links_of(rig: Rig) -> int:
    """Returns how many ``link_error`` messages were published."""
    return sum(envelope.id == "link" for (envelopes,) in rig.served.called("publish") for envelope in envelopes)


def test_a_takeover_whose_answer_is_lost_leaves_no_dead_letter_without_an_end(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    leave_poison(rig)
    lost: list[str] = []

    def lose(method: str, args: object) -> Exception | None:
        if method != "takeover" or lost:
            return None
        lost.append(method)
        return GONE

    rig.served.after = lose
    rig.start()
    rig.wait_state("poison", "FAILURE")
    assert lost
    rig.logged("message is a dead letter: crash limit")
    wait_for(lambda: links_of(rig), "link_error to be sent")
    assert rig.finish() == 0
    assert "dead-lettered" not in rig.log, "the answer was lost"


def test_a_dispatcher_that_dies_after_a_takeover_leaves_no_dead_letter_without_an_end(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig()
    leave_poison(rig)

    def die(method: str, args: object) -> Exception | None:
        if method == "takeover" and rig.starts == 1:
            os.kill(rig.pid, signal.SIGKILL)
        return None

    rig.served.after = die
    rig.start()
    assert rig.exit_status() == -signal.SIGKILL
    assert rig.record("poison") is None
    rig.start()
    rig.wait_state("poison", "FAILURE")
    wait_for(lambda: links_of(rig), "link_error to be sent")
    rig.kill()
    looks = len(rig.served.called("dead"))
    rig.start()
    wait_for(lambda: len(rig.served.called("dead")) > looks, "the dead letters to be looked through")
    assert rig.finish() == 0
    assert links_of(rig) == 1, "what is on record is not seen to again"


def leave_poison(rig: Rig, task: str = "t.noop") -> None:
    """Leaves two messages of a dead worker: the takeover makes one a dead letter and releases the other."""
    link = {"task": "t.noop", "id": "link"}
    rig.publish(message("poison", task, link_error=[link]), message("innocent"))
    lock = rig.folder / "other.lock"
    lock.touch()
    other = rig.served.transport.consume(["default"], Worker("w0", "host", "boot", str(lock), 30.0))
    claims = {delivery.id: delivery.claim for delivery in other.fetch(2, 0)}
    broker = rig.served.transport._broker
    with broker.changed:
        broker.members["w0"].claims[claims["poison"]].crashes = 2
    other.renew({claims["poison"]})
