"""What children and clients ask of the broker, through the dispatcher."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from dispatcher_rig import DEADLINE, Rig, message, pending, wait_for

from engine.app import wire
from engine.app.client import POLICY, Client, policy_of
from engine.app.relay import ClientCall, RelayResults, RelayTransport, SlotCall, connect_results, connect_transport
from engine.app.settings import BrokerSection, Settings
from engine.contract import Batch, Capabilities, Record
from engine.errors import BrokerFull, BrokerUnavailable, TransportError
from engine.runtime import control


@pytest.fixture
def client(rig: Rig) -> Iterator[socket.socket]:
    """Returns a client's end of a connection that the dispatcher has got."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rig.tell(control.Client(), theirs.fileno())
    theirs.close()
    with ours:
        yield ours


def test_a_task_publishes_and_looks_around(rig: Rig) -> None:
    transport = RelayTransport(SlotCall(rig.children[0].link, 1))
    transport.publish([message("a").envelope(), message("b", queue="other").envelope()])
    rig.wait_place("a", "claimed")
    assert transport.counts(["other"])["other"].ready == 1
    found = transport.find("b")
    assert found is not None
    assert found == rig.served.transport.find("b")
    assert transport.find("nobody") is None
    assert transport.purge("other") == 1
    wait_for(lambda: rig.unsettled_bytes() == 0, "the requests to be consumed")


def test_all_methods_of_a_transport_pass(rig: Rig) -> None:
    transport = RelayTransport(SlotCall(rig.children[0].link, 1))
    transport.publish([message("late", eta=9e9).envelope(), message("x", "t.unknown").envelope()])
    rig.wait_place("x", "dead")
    assert [one.id for one in transport.scheduled(10)] == ["late"]
    assert [one.id for one in transport.dead(10, "default")] == ["x"]
    letter = transport.dead_letter("x")
    assert letter is not None
    assert letter.reason == "unknown task t.unknown"
    assert transport.dead_letter("y") is None
    assert transport.replay(["x"]) == 1
    rig.wait_place("x", "dead")
    assert transport.drop(["x"]) == 1
    transport.pause("default", True)
    assert transport.counts(None)["default"].paused
    transport.pause("default", False)
    assert [one.id for one in transport.revoke(["late"], 9e9)] == ["late"]
    assert list(transport.check()) == []
    with pytest.raises(TransportError, match="dispatcher"):
        transport.consume([], rig.worker)


def test_results_are_read_and_waited_for(rig: Rig) -> None:
    results = RelayResults(SlotCall(rig.children[1].link, 1))
    rig.publish(message("a"))
    child = rig.children[0]
    packet = child.take()
    assert results.get(["a"]) == {}
    assert list(results.wait(["a"], 0.0)) == []
    waited: list[Record] = []
    waiter = threading.Thread(target=lambda: waited.extend(results.wait(["a", "b"], 5.0)))
    waiter.start()
    child.end(packet)
    rig.served.results.store([Record("b", "SUCCESS", 1.0, 0, 1, b"{}", final=True)])
    waiter.join(5.0)
    assert {record.id for record in waited} == {"a", "b"}
    results.forget(["a"])
    assert results.get(["a"]) == {}
    with pytest.raises(TransportError, match="dispatcher"):
        results.store([])


def test_a_wait_blocks_nobody_else(rig: Rig) -> None:
    first, second = rig.children
    first.ask("wait", ["never"], 60.0)
    second.ask("counts", None)
    assert second.answer().error is None
    first.die(None)
    wait_for(lambda: rig.unsettled_bytes(0) == 0, "the dead child's request to be consumed")


def test_an_error_arrives_as_what_it_was(rig: Rig) -> None:
    rig.served.fault = lambda method, args: BrokerFull("no room") if method == "publish" else None
    transport = RelayTransport(SlotCall(rig.children[0].link, 1))
    with pytest.raises(BrokerFull, match="no room"):
        transport.publish([message("a").envelope()])
    rig.served.fault = lambda method, args: ZeroDivisionError("oops") if method == "counts" else None
    with pytest.raises(TransportError, match="ZeroDivisionError: oops"):
        transport.counts()


def test_unknown_methods_and_arguments_that_cannot_be_read_are_answered(rig: Rig) -> None:
    child = rig.children[0]
    child.ask("close")
    reply = child.answer()
    assert (reply.error, reply.number) == ("TransportError", 1)
    child.ask("find", 1, 2, 3)
    assert "cannot be read" in child.answer().text


def test_answers_to_an_earlier_child_are_dropped(rig: Rig) -> None:
    child = rig.children[0]
    child.ask("counts", None, spawn=1)
    wait_for(lambda: rig.unsettled_bytes() == 0, "the first child's request to be answered")
    assert RelayTransport(SlotCall(child.link, 2)).find("x") is None


def test_a_publish_that_is_repeated_is_made_once(rig: Rig) -> None:
    transport = RelayTransport(SlotCall(rig.children[0].link, 1))
    transport.publish([message("a", eta=9e9).envelope()], batch=Batch("me", 1))
    transport.revoke(["a"], 0.0)
    transport.publish([message("a", eta=9e9).envelope()], batch=Batch("me", 1))
    assert rig.place("a") is None
    child = rig.children[1]
    child.ask("publish", [message("b").envelope()], None)
    assert child.answer().error is None


def test_a_client_asks_over_its_connection(rig: Rig, client: socket.socket) -> None:
    for number in (1, 2):
        args = msgspec.msgpack.encode([[message(f"c{number}").envelope()], None])
        wire.send(client, wire.encode(wire.Request(0, number, "publish", args)))
    numbers = [wire.decode(wire.receive(client)).number for _ in range(2)]
    assert numbers == [1, 2]
    rig.wait_place("c2", "claimed")


def test_a_client_that_sends_nonsense_is_dropped(rig: Rig, client: socket.socket) -> None:
    client.send(b"nonsense")
    assert client.recv(100) == b""
    assert rig.children[0].slot is not None


def test_a_client_that_does_not_read_is_dropped(rig: Rig, client: socket.socket) -> None:
    """And holds nobody up."""
    client.settimeout(5.0)
    rig.publish_raw("a", b"x" * 100_000, due=9e9)
    args = msgspec.msgpack.encode([10, None])
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        _send_for_ever(client, wire.encode(wire.Request(0, 1, "scheduled", args)))
    rig.publish(message("b"))
    rig.children[0].end(rig.children[0].take())
    rig.wait_state("b", "SUCCESS")


def test_a_client_with_too_much_in_flight_is_read_later(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runtime.dispatcher.relay.IN_FLIGHT_MOST", 100)
    rig = make_rig().start()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rig.tell(control.Client(), theirs.fileno())
    with ours, theirs:
        waits = wire.encode(wire.Request(0, 1, "wait", msgspec.msgpack.encode([["a" * 200], 60.0])))
        wire.send(ours, waits)
        wait_for(lambda: pending(theirs) == 0, "the first call to be read")
        wire.send(ours, wire.encode(wire.Request(0, 2, "capabilities", msgspec.msgpack.encode([]))))
        assert not select.select([ours], [], [], 0.3)[0]
        rig.served.results.store([Record("a" * 200, "SUCCESS", 1.0, 0, 1, b"{}", final=True)])
        assert [wire.decode(wire.receive(ours)).number for _ in range(2)] == [1, 2]


def test_a_client_whose_descriptor_was_lost_harms_nobody(rig: Rig, client: socket.socket) -> None:
    rig.tell(control.Client())
    rig.logged("a client's connection was lost on its way here")
    assert RelayTransport(SlotCall(rig.children[0].link, 1)).find("x") is None


def test_clients_above_the_most_are_refused(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.runtime.dispatcher.relay.CLIENTS_MOST", 2)
    rig = make_rig().start()
    ends: list[socket.socket] = []
    for _ in range(4):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        rig.tell(control.Client(), theirs.fileno())
        theirs.close()
        ours.settimeout(DEADLINE)
        ends.append(ours)
    assert [end.recv(100) for end in ends[2:]] == [b"", b""]
    for end in ends[:2]:
        wire.send(end, wire.encode(wire.Request(0, 1, "capabilities", msgspec.msgpack.encode([]))))
        assert wire.decode(wire.receive(end)).error is None
    assert rig.log.count("2 clients are connected, further ones are refused") == 1
    for end in ends:
        end.close()


def test_a_generation_whose_descriptors_were_lost_comes_with_the_next_dispatcher(rig: Rig) -> None:
    rig.tell(control.AddGeneration(2, rig.tasks))
    assert rig.exit_status() == 70
    assert "raise the limit of open files" in rig.log


def _send_for_ever(client: socket.socket, packet: bytes) -> None:
    while True:
        wire.send(client, packet)


def test_without_an_engine_a_client_hears_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match=r"none called 'demo' is up: start it with `engine start`"):
        connect_transport(tmp_path / "demo.sock")
    with pytest.raises(BrokerUnavailable, match="demo"):
        connect_results(tmp_path / "demo.sock").get(["a"])


def test_a_send_that_is_to_be_tried_for_ever_is_tried_as_often_as_others(tmp_path: Path) -> None:
    settings = Settings(broker=BrokerSection(url="memory://demo"))
    client = Client(lambda: settings)
    client.use(RelayTransport(ClientCall(tmp_path / "demo.sock")), None)
    policy = policy_of({"max_retries": None, "interval_step": 0.0})
    with pytest.raises(BrokerUnavailable, match=r"none called 'demo' is up.*\(tried 3 times\)"):
        client.publish([message("a").envelope()], policy)
    assert policy_of({"max_retries": 0})["max_retries"] == 0
    assert policy_of(None) == POLICY


def test_a_client_connects_through_the_control_socket_and_again_after_a_loss(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "demo.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(5)
        accepted: list[socket.socket] = []
        introducer = threading.Thread(target=_introduce, args=(listener, rig, accepted.append), daemon=True)
        introducer.start()
        transport = connect_transport(path)
        assert transport.capabilities == Capabilities(
            publishes_once=True, stores_results=True, finds=True, revokes=True, keeps_claims=True
        )
        assert transport.find("x") is None
        transport.close()
        assert transport.find("x") is None
        call = ClientCall(path)
        assert RelayResults(call).get(["x"]) == {}
        call.close()
        transport.close()
        assert len(accepted) == 3


def _introduce(listener: socket.socket, rig: Rig, note: Callable[[socket.socket], None]) -> None:
    """Does what the supervisor does with a client that says "relay"."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        assert b"relay" in client.recv(1000)
        client.send(b'{"ok": true}')
        rig.tell(control.Client(), client.fileno())
        note(client)
        client.close()
