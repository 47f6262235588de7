"""What never reaches a child."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from dispatcher_rig import TASKS, Rig, body_of, message, wait_for

from engine.app import commands
from engine.app.settings import WorkerSection
from engine.app.wire import TaskInfo
from engine.contract import Delivery
from engine.errors import BrokerUnavailable, TransportError
from engine.runtime import board as words
from engine.runtime import control
from engine.runtime.dispatcher.filters import Filter
from engine.runtime.dispatcher.registry import Registry


def dead_reason(rig: Rig, id: str) -> str:
    """Waits for a dead letter, and returns its reason."""
    rig.wait_place(id, "dead")
    letter = rig.served.transport.dead_letter(id)
    assert letter is not None
    return letter.reason


def test_a_malformed_message_is_a_dead_letter(rig: Rig) -> None:
    rig.publish_raw("a", b"\xff not json")
    assert "malformed" in dead_reason(rig, "a")
    rig.publish(message("b"))
    rig.children[0].end(rig.children[0].take())
    rig.wait_state("b", "SUCCESS")


def test_a_message_that_is_too_large_is_a_dead_letter(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(max_message=1000).start()
    rig.publish(message("a", origin="x" * 1000))
    assert "max_message" in dead_reason(rig, "a")
    assert rig.state("a") == "FAILURE"


def test_an_unknown_task_fails_and_is_replayed_by_a_worker_that_knows_it(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig().start()
    rig.publish(message("a", "t.new"))
    assert dead_reason(rig, "a") == "unknown task t.new"
    failure = body_of(rig.wait_state("a", "FAILURE")).failure
    assert failure is not None
    assert failure.type == "NotRegistered"
    rig.kill()
    rig.tasks = [*rig.tasks, TaskInfo("t.new", acks_late=True)]
    rig.start()
    rig.children[0].end(rig.children[0].take())
    rig.wait_state("a", "SUCCESS")


def test_dead_letters_that_could_not_be_looked_through_are_looked_through_again(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runtime.dispatcher.letters.LOOK_AGAIN", 0.05)
    rig = make_rig().start()
    rig.publish(message("a", "t.new"))
    rig.wait_place("a", "dead")
    rig.kill()
    rig.tasks = [*rig.tasks, TaskInfo("t.new", acks_late=True)]
    busy = TransportError("somebody else is at the same: try again")
    looks = len(rig.served.called("dead"))
    rig.served.fault = lambda method, args: (
        busy if method == "dead" and len(rig.served.called("dead")) < looks + 3 else None
    )
    rig.start()
    rig.children[0].end(rig.children[0].take())
    rig.wait_state("a", "SUCCESS")
    assert rig.log.count("dead letters are looked through later: somebody else") == 2


def test_dead_letters_that_cannot_be_looked_through_in_an_outage_are_no_lines_of_their_own(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runtime.dispatcher.letters.LOOK_AGAIN", 0.01)
    rig = make_rig()
    gone = BrokerUnavailable("served: connection refused")
    rig.served.fault = lambda method, args: gone if method == "dead" else None
    rig.start()
    rig.logged("dead letters are looked through later: served: connection refused")
    rig.served.fault = lambda method, args: gone
    rig.logged("broker: served: connection refused")

    def wait_for_looks(count: int) -> None:
        more = len(rig.served.called("dead")) + count
        wait_for(lambda: len(rig.served.called("dead")) >= more, "dead letters to be asked for again and again")

    wait_for_looks(3)
    told = rig.log.count("looked through later")
    wait_for_looks(5)
    assert rig.log.count("looked through later") == told


def test_what_never_reaches_a_child_is_logged(rig: Rig) -> None:
    rig.publish(message("a", "t.new"))
    rig.logged("unknown task t.new: not run, but kept as a dead letter (engine dead show ID) [t.new a]")
    rig.publish(message("b", expires=time.time() - 1))
    rig.logged("expired: not run [t.noop b]")


def test_a_message_that_is_fetched_after_its_revocation_was_heard_never_runs() -> None:
    """Also when the broker did not know of it yet as it handed the message out."""
    revoking = Filter(WorkerSection())
    deliveries = [Delivery(id, "default", message(id).encode(), id.encode()) for id in ("a", "b")]
    revoking.revoke(["a"])
    held, items = revoking.sort(deliveries, Registry(TASKS))
    assert [one.message.id for one in held] == ["b"]
    assert [(item.id, item.ended and item.ended.state) for item in items] == [("a", "REVOKED")]


def test_a_former_name_is_known(rig: Rig) -> None:
    rig.publish(message("a", "t.old"))
    rig.children[0].end(rig.children[0].take())
    rig.wait_state("a", "SUCCESS")


def test_an_expired_message_is_revoked(rig: Rig) -> None:
    rig.publish(message("a", expires=time.time() - 1))
    failure = body_of(rig.wait_state("a", "REVOKED")).failure
    assert failure is not None
    assert failure.text == "expired"
    rig.wait_place("a", None)


def test_a_revoked_message_is_revoked(rig: Rig) -> None:
    rig.served.transport.revoke(["a"], time.time() + 60)
    rig.publish(message("a"))
    rig.wait_state("a", "REVOKED")
    rig.wait_place("a", None)


def test_a_serializer_that_is_not_accepted_is_a_dead_letter(rig: Rig) -> None:
    rig.publish(message("a", serializer="pickle"))
    assert "pickle" in dead_reason(rig, "a")
    assert rig.state("a") == "FAILURE"


def test_over_its_rate_a_message_waits_at_the_broker(rig: Rig) -> None:
    rig.publish(message("a", "t.rated"), message("b", "t.rated"), message("c"))
    first, second = rig.children
    packets = {first.take().sequence, second.take().sequence}
    assert len(packets) == 2
    wait_for(lambda: "delayed" in (rig.place("a"), rig.place("b")), "one of the two to be delayed")


def test_a_revocation_reaches_what_is_in_hand(rig: Rig) -> None:
    rig.publish(message("a"), message("b"))
    rig.wait_place("b", "claimed")
    rig.served.transport.revoke(["b"], time.time() + 60)
    rig.served.transport.broadcast(commands.encode(commands.Revoke(["b"])))
    rig.wait_state("b", "REVOKED")
    rig.children[0].end(rig.children[0].take())
    rig.wait_state("a", "SUCCESS")
    assert rig.take(timeout=0.1) is None


def test_a_revocation_reaches_what_is_on_its_way_back_to_wait_for_its_turn(rig: Rig) -> None:
    """An hour's wait: the broker did not find it where it looked, and must look again."""
    held, go = threading.Event(), threading.Event()

    def hold(method: str, args: tuple[Any, ...]) -> None:
        if method == "settle" and any(getattr(one, "at", None) for one in args[0]):
            held.set()
            go.wait(10.0)

    rig.served.fault = hold
    rig.publish(message("first", "t.rated"), message("limited", "t.rated"))
    assert held.wait(10.0)
    assert not rig.served.transport.revoke(["limited"], time.time() + 60)
    rig.served.transport.broadcast(commands.encode(commands.Revoke(["limited"])))
    heard = len(rig.served.called("commands"))
    wait_for(lambda: len(rig.served.called("commands")) > heard + 1, "the order to be heard")
    go.set()
    rig.wait_state("limited", "REVOKED")
    assert rig.place("limited") is None


def test_terminate_asks_the_supervisor_to_interrupt(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[1]
    child.take()
    rig.served.transport.broadcast(commands.encode(commands.Revoke(["a"], terminate=True)))
    assert rig.hear() == control.Interrupt(1, child.slot[words.RUN])
    rig.served.transport.broadcast(b"something else")
    rig.logged("a command that this version does not know")
