"""What a child's death means for its task."""

from __future__ import annotations

import pytest
from dispatcher_rig import Rig, body_of, message, message_id, wait_for

from engine.app import wire
from engine.app.wire import TaskInfo
from engine.contract.results import FAILURE
from engine.contract.transport import Ack


def test_a_crashed_task_runs_again_at_once_and_counts(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    for crashes in (0, 1):
        packet = child.take()
        assert (packet.crashes, packet.deliveries) == (crashes, crashes + 1)
        child.die(packet)
        child.ready()
    child.end(child.take())
    rig.wait_state("a", "SUCCESS")
    assert rig.log.count("task lost in child 0 (pid 4711): SIGKILL after it had started") == 2
    assert "it runs again (crash 2) [t.noop a]" in rig.log


def test_after_max_crashes_it_is_a_dead_letter(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    for _ in range(3):
        child.die(child.take(), "SIGSEGV")
        child.ready()
    body = body_of(rig.wait_state("a", "FAILURE"))
    assert body.failure is not None
    assert (body.failure.type, body.failure.text) == ("WorkerLostError", "SIGSEGV")
    rig.wait_place("a", "dead")
    letter = rig.served.transport.dead_letter("a")
    assert letter is not None
    assert letter.reason.startswith("crash limit")


def test_an_outcome_that_lies_before_the_death_wins(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    child.end(packet)
    child.die(packet)
    rig.wait_state("a", "SUCCESS")
    rig.wait_place("a", None)
    wait_for(lambda: rig.unsettled_bytes() == 0, "both packets to be consumed")
    assert "lost" not in rig.log


@pytest.mark.parametrize(
    ("why", "limit", "used", "type_"),
    [("time_limit", 5.0, 5.1, "TimeLimitExceeded"), ("memory_limit", 1e6, 2e6, "MemoryLimitExceeded")],
)
def test_a_limit_is_a_failure_and_acknowledged(rig: Rig, why: str, limit: float, used: float, type_: str) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    child.die(child.take(), why=why, limit=limit, used=used)
    failure = body_of(rig.wait_state("a", FAILURE)).failure
    assert failure is not None
    assert failure.type == type_
    rig.wait_place("a", None)


def test_a_task_that_does_not_acknowledge_failures_becomes_a_dead_letter_at_a_limit(make_rig: object) -> None:
    assert callable(make_rig)
    rig = make_rig(tasks=[TaskInfo("t.noop", acks_late=True, acks_on_failure_or_timeout=False)]).start()
    rig.publish(message("a"))
    child = rig.children[0]
    child.die(child.take(), why="time_limit", limit=5.0, used=5.1)
    rig.wait_state("a", FAILURE)
    rig.wait_place("a", "dead")


def test_the_stack_at_the_soft_limit_is_in_the_record(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    wire.post(child.link, wire.encode(wire.Stack(packet.sequence, "in spin, line 3")))
    child.die(packet, why="time_limit", limit=5.0, used=5.1, soft_raised=True)
    body = body_of(rig.wait_state("a", FAILURE))
    assert body.traceback is not None
    assert "in spin, line 3" in body.traceback
    wait_for(lambda: rig.unsettled_bytes() == 0, "both packets to be consumed")


def test_a_kill_that_was_meant_for_another_task_counts_nothing(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    child.die(child.take(), why="time_limit", aimed=False)
    child.ready()
    packet = child.take()
    assert (packet.deliveries, packet.crashes) == (1, 0)


def test_a_shutdown_counts_nothing(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    child.die(child.take(), why="shutdown")
    child.ready()
    packet = child.take()
    assert (packet.deliveries, packet.crashes) == (1, 0)


def test_a_revoked_run_ends_revoked(rig: Rig) -> None:
    rig.publish(message("a"))
    child = rig.children[0]
    child.die(child.take(), why="revoked")
    rig.wait_state("a", "REVOKED")
    rig.wait_place("a", None)


def test_hooks_of_a_task_whose_child_died_run_in_another(rig: Rig) -> None:
    rig.publish(message("a", "t.hooked"))
    first, second = rig.children
    first.die(first.take(), why="time_limit", limit=5.0, used=5.1)
    hooks = second.take()
    assert hooks.claim == b""
    assert hooks.end is not None
    state, body = hooks.end
    record = rig.wait_state("a", FAILURE)
    assert (state, body) == (FAILURE, record.body)
    second.die(hooks)
    rig.logged("hooks are lost: the child that ran them died: SIGKILL [t.hooked a]")
    wait_for(lambda: rig.unsettled_bytes(1) == 0, "the death to be consumed")
    assert rig.state("a") == FAILURE


def test_a_child_cannot_end_what_it_does_not_run(rig: Rig) -> None:
    rig.publish(message("a"), message("b"))
    first, second = rig.children
    one, other = first.take(), second.take()
    first.end(one, Ack(other.claim))
    rig.logged("child 0 reported the end of what it did not run")
    assert rig.place(message_id(other)) == "claimed"
    assert first.take().crashes == 1


def test_a_packet_that_cannot_be_read_is_dropped(rig: Rig) -> None:
    child = rig.children[0]
    child.link.send(b"\x07nonsense")
    rig.logged("child 0 sent what cannot be read")
    rig.publish(message("a"))
    child.end(child.take())
    rig.wait_state("a", "SUCCESS")
    wait_for(lambda: rig.unsettled_bytes() == 0, "both packets to be consumed")


def test_link_error_is_published_for_it(rig: Rig) -> None:
    link = {"task": "t.noop", "id": "linked", "options": {}}
    rig.publish(message("a", link_error=[link]))
    child = rig.children[0]
    child.die(child.take(), why="time_limit", limit=5.0, used=5.1)
    child.ready()
    rig.wait_state("a", FAILURE)
    child.end(child.take())
    rig.wait_state("linked", "SUCCESS")
