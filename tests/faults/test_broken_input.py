"""Broken messages and packets, by the thousand: no process ends, none hangs, each ends with a reason."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from faults_rig import Rig

from engine.app import wire
from engine.contract import Ack, Envelope, Message, Record, Release
from engine.errors import MessageError
from engine.testing.faults.fuzz import Mutator
from engine.testing.harness import wait_for

sys.path.append(str(Path(__file__).parent.parent / "dispatcher"))

import dispatcher_rig

MESSAGE = Message(
    version=1,
    id="fuzzed",
    task="faults.take",
    sent=1000.5,
    args=msgspec.Raw(b'[1,"two",{"three":[4.5,null]}]'),
    kwargs=msgspec.Raw(b'{"a":{"b":[]}}'),
    priority=3,
    retries=1,
    max_retries=5,
    time_limit=30.0,
    soft_time_limit=20.0,
    origin="1@here",
    root="root",
    headers={"trace": "x"},
    link=[{"id": "linked", "task": "faults.take", "args": []}],
    link_error=[{"id": "failed", "task": "faults.take", "args": [], "serializer": "msgpack", "priority": 3}],
).encode()
DECODED = 200_000
SENT = 5000
FRAMES = 20_000


def test_two_hundred_thousand_broken_messages_are_messages_or_message_errors() -> None:
    mutator = Mutator.of_json(1)
    refused = 0
    for _ in range(DECODED):
        try:
            Message.decode(mutator.broken(MESSAGE))
        except MessageError:
            refused += 1
    assert DECODED / 10 < refused < DECODED


def test_five_thousand_broken_messages_stop_no_worker_and_each_has_its_end(rig: Rig) -> None:
    engine = rig.start(concurrency=2)
    services = {row["role"]: row["pid"] for row in engine.status()["processes"]}
    dispatcher = psutil.Process(services["dispatcher"])
    mutator = Mutator.of_json(2)
    bodies = [mutator.broken(MESSAGE) for _ in range(SENT)]
    _send(rig, bodies[: SENT // 5])
    before = dispatcher.memory_info().rss
    _send(rig, bodies[SENT // 5 :])
    places = rig.places()
    assert set(places) == {"dead"}
    assert SENT / 10 < places["dead"] < SENT
    letters = rig.client.client.broker(lambda transport: transport.dead(10_000))
    assert len(letters) > SENT / 10
    assert all(letter.reason for letter in letters)
    ids = [letter.id for letter in letters]
    assert rig.client.client.broker(lambda transport: transport.drop(ids)) == len(ids)
    assert not rig.places(), "each dead letter is listed"
    assert {row["role"]: row["pid"] for row in engine.status()["processes"]} == services
    assert dispatcher.memory_info().rss - before < 20 * 2**20
    assert " died " not in engine.log
    assert "CRITICAL" not in engine.log
    assert rig.send("sleep").get(timeout=20)


def _send(rig: Rig, bodies: list[bytes]) -> None:
    """Sends, and waits until all of these have ended."""
    for begin in range(0, len(bodies), 500):
        now = time.monotonic_ns()
        part = [Envelope(f"{now}-{number}", body) for number, body in enumerate(bodies[begin : begin + 500])]
        rig.client.client.broker(lambda transport, part=part: transport.publish(part))
    wait_for(lambda: not {"ready", "claimed", "delayed"} & set(rig.places()), "all to end", 60)


def _frames() -> list[bytes]:
    record = Record("x", "SUCCESS", 1.0, 0, 1, b'{"state":"SUCCESS"}', final=True)
    packets = [
        wire.Outcome(1 << 40, 7, "x", "t.noop", "default", Ack(b"claim", record), "SUCCESS", 0, 1, 0.1),
        wire.Outcome(1 << 40, 7, "x", "t.noop", "default", Release(b"claim", 5.0, "crash", record), "", 0, 1, 0.1),
        wire.Stored(1 << 40, record),
        wire.Request(1, 1, "publish", b"\x92\x90\xc0"),
        wire.Request(1, 2, "get", b"\x91\x90"),
        wire.Death(0, 4711, 1, 7, 0, "", b"", "died", "SIGKILL"),
        wire.Stack(1 << 40, "where it was"),
    ]
    return [wire.encode(packet) for packet in packets]


@pytest.fixture
def dispatcher(tmp_path: Path) -> Iterator[dispatcher_rig.Rig]:
    """A dispatcher whose supervisor, children and broker the test plays."""
    made = dispatcher_rig.Rig(tmp_path, slots=2).start()
    yield made
    made.close()


def test_twenty_thousand_broken_packets_of_a_child_do_not_end_the_dispatcher(dispatcher: dispatcher_rig.Rig) -> None:
    mutator = Mutator.of_msgpack(3)
    frames = _frames()
    pid, (hostile, innocent) = dispatcher.pid, dispatcher.children
    memory = psutil.Process(pid)
    deadline = time.monotonic() + 60
    for number in range(FRAMES):
        packet = frames[number % len(frames)]
        if number % 2:  # a broken packet in its frame, and a broken frame
            data = mutator.broken(packet)
            data = wire.HEAD.pack(wire.BEGIN, len(data)) + data
        else:
            data = mutator.broken(wire.HEAD.pack(wire.BEGIN, len(packet)) + packet)
        while True:
            try:
                hostile.link.send(data, wire.NOW)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, f"the dispatcher reads no more:\n{dispatcher.log[-2000:]}"
                _drain(hostile)
        if number == FRAMES // 5:
            before = memory.memory_info().rss
    dispatcher.publish(dispatcher_rig.message("after"))
    packet = innocent.take()
    innocent.end(packet)
    dispatcher.wait_state("after", "SUCCESS")
    dispatcher.wait_place("after", None)
    assert dispatcher.pid == pid
    assert "sent what cannot be read" in dispatcher.log
    assert memory.memory_info().rss - before < 20 * 2**20
    assert "Traceback" not in dispatcher.log


def _drain(child: dispatcher_rig.Child) -> None:
    """Reads the replies."""
    while True:
        try:
            child.link.recv(1 << 20, wire.NOW)
        except BlockingIOError:
            time.sleep(0.001)
            return
