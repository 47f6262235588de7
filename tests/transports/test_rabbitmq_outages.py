"""A node that runs full, hangs, is killed, or takes messages back: nothing is lost, and it is said what to do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from rabbit_server import made
from test_rabbitmq_faults import ids, send, take, worker

from engine import Engine
from engine.contract import Ack, Again, Consumer, Envelope, Worker
from engine.errors import BrokerFull, BrokerUnavailable
from engine.testing.faults.rabbitmq import Rabbit
from engine.testing.harness import EngineProcess, toml
from engine.testing.transport_suite_kit import QUEUE, wait_for
from engine_rabbitmq import RabbitTransport
from servers import free_port, need

TASKS = """
import os
from engine import Engine

app = Engine("outage")

@app.task
def note(number):
    fd = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{number}\\n".encode())
    os.close(fd)
    return number
"""


class Node(Rabbit):
    """A node with a TLS listener beside the other."""

    def __init__(self, folder: Path) -> None:
        self.tls_port = free_port()
        self.authority = folder / "ca.pem"
        _certify(folder)
        super().__init__(
            folder,
            {
                "listeners.ssl.1": f"127.0.0.1:{self.tls_port}",
                "ssl_options.cacertfile": str(self.authority),
                "ssl_options.certfile": str(folder / "server.pem"),
                "ssl_options.keyfile": str(folder / "server.key"),
                "disk_free_limit.absolute": "1MB",
            },
        )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node of this file's own."""
    need("openssl")
    node = made(lambda: Node(tmp_path_factory.mktemp("node")))
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture
def vhost(node: Node) -> str:
    """A virtual host of the test's own."""
    return node.virtual_host()


@pytest.fixture
def transport(node: Node, vhost: str) -> Iterator[RabbitTransport]:
    """A transport at it."""
    transport = RabbitTransport(node.url_of(vhost), options={})
    yield transport
    transport.close()


def test_a_node_that_runs_full_refuses_messages_and_can_be_drained(
    node: Node, transport: RabbitTransport, tmp_path: Path
) -> None:
    send(transport, "a", "b", "c")
    consumer = transport.consume([QUEUE], worker(tmp_path))
    (first,) = wait_for(lambda: consumer.fetch(1, 0.2), "a message")
    node.control("set_vm_memory_high_watermark", "0.00001")
    with pytest.raises(BrokerFull, match="make room there"):
        send(transport, "on its way")  # what tells the server that we publish
    with pytest.raises(BrokerFull):
        send(transport, "refused")
    assert list(consumer.settle([Ack(first.claim)])) == []
    (second,) = wait_for(lambda: consumer.fetch(1, 0.2), "a message while the node is full")
    with pytest.raises(BrokerFull):
        consumer.settle([Again(second.claim, Envelope(id=second.id, body=b"again"))])
    client = RabbitTransport(transport.url, options={})
    with pytest.raises(BrokerFull):
        send(client, "refused")
    assert client.counts([QUEUE])[QUEUE].ready <= 1
    newcomer = client.consume([QUEUE], worker(tmp_path))
    assert ids(newcomer, 1) == ["c"]
    client.close()
    node.control("set_vm_memory_high_watermark", "0.8")
    wait_for(
        lambda: _settled(lambda: consumer.settle([Again(second.claim, Envelope(id=second.id, body=b"x"))])), "room"
    )
    send(transport, "after")
    assert sorted(one.id for one in take(consumer, 3)) == ["after", "b", "on its way"]
    assert consumer.fetch(1, 0.3) == []


def test_a_node_that_is_killed_loses_nothing_that_was_confirmed(
    node: Node, transport: RabbitTransport, tmp_path: Path
) -> None:
    me = worker(tmp_path)
    sent = [f"m{n}" for n in range(200)]
    send(transport, *sent)
    send(transport, "later", due=time.time() + 2)
    consumer = transport.consume([QUEUE], me)
    done = ids(consumer, 20)
    held = wait_for(lambda: consumer.fetch(5, 0.2), "some more")
    node.flush()
    send(transport, "last")
    node.kill()
    with pytest.raises(BrokerUnavailable):
        wait_for(lambda: consumer.fetch(0, 0.1), "the loss")
    with pytest.raises(BrokerUnavailable):
        send(transport, "refused")
    node.start()
    claims = [one.claim for one in held]
    again = wait_for(lambda: _reconciled(transport, me, claims), "the streams to be back, some seconds after the node")
    back: dict[str, bool] = {}

    def is_whole() -> bool:
        found = again.fetch(100, 0.2)
        again.settle([Ack(one.claim) for one in found])
        back.update((one.id, one.gate) for one in found)
        return set(back) >= {*sent, "later", "last"} - set(done)

    wait_for(is_whole, "everything that was not acknowledged")
    assert all(back[one.id] for one in held)
    assert set(back) <= {*sent, "later", "last"}


def test_a_node_that_hangs_is_unavailable_and_then_goes_on(
    node: Node, transport: RabbitTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_rabbitmq.confirms.ANSWER_TIMEOUT", 1.0)
    send(transport, "one")
    node.pause()
    try:
        with pytest.raises(BrokerUnavailable, match="no confirm"):
            send(transport, "two")
    finally:
        node.resume()
    send(transport, "three")
    consumer = transport.consume([QUEUE], worker(tmp_path))
    assert {"one", "three"} <= set(ids(consumer, 2 + transport.counts([QUEUE])[QUEUE].ready - 2))


def test_a_message_that_is_held_too_long_is_taken_back_and_says_why(
    node: Node, transport: RabbitTransport, tmp_path: Path
) -> None:
    _take_back_after(node, 500, 200)
    try:
        me = worker(tmp_path)
        consumer = transport.consume([QUEUE], me)
        send(transport, "long")
        (held,) = wait_for(lambda: consumer.fetch(1, 0.2), "the message")
        with pytest.raises(BrokerUnavailable, match=r"set consumer_timeout in rabbitmq\.conf"):
            wait_for(lambda: consumer.fetch(0, 0.1), "the loss")
        again = transport.consume([QUEUE], me)
        assert list(again.settle([Ack(held.claim)])) == [held.claim]
        (back,) = take(again, 1)
        assert (back.id, back.gate) == ("long", True)
    finally:
        _take_back_after(node, 1_800_000, 60_000)
    assert any("consumer_timeout" in note for note in transport.check())


def test_the_server_is_verified(node: Node, vhost: str) -> None:
    url = f"amqps://guest:guest@localhost:{node.tls_port}/{vhost}"
    with pytest.raises(BrokerUnavailable, match="certificate"):
        RabbitTransport(url, options={}).check()
    trusting = RabbitTransport(url, options={"ca_file": str(node.authority)})
    send(trusting, "one")
    assert trusting.counts([QUEUE])[QUEUE].ready == 1
    trusting.close()
    with pytest.raises(BrokerUnavailable, match="expects amqps://"):
        RabbitTransport(node.url_of(vhost).replace(str(node.port), str(node.tls_port)), options={}).check()


def test_an_engine_lives_through_an_outage(node: Node, vhost: str, tmp_path: Path) -> None:
    (tmp_path / "outage_tasks.py").write_text(TASKS)
    url, results = node.url_of(vhost), f"sqlite:///{tmp_path}/results.db"
    engine = EngineProcess(tmp_path, toml("outage_tasks:app", broker=url, results=results)).start()
    client = Engine("client", broker=url, backend=results)
    try:
        node.flush()
        before = [client.send_task("outage_tasks.note", [n]) for n in range(300)]
        node.kill()
        node.start()
        wait_for(lambda: "back after" in engine.log, "the engine to be back")
        after = [client.send_task("outage_tasks.note", [n]) for n in range(300, 320)]
        assert [result.get(timeout=30) for result in before + after] == list(range(320))
        assert engine.log.count("trying again until it is back") <= 2, engine.log
    finally:
        client.close()
        status = engine.stop()
        engine.close()
    assert status == 0


def _take_back_after(node: Node, timeout: int, look_every: int) -> None:
    node.evaluate(f"[application:set_env(rabbit, K, V) || {{K, V}} <- [{{consumer_timeout, {timeout}}}, "
                  f"{{channel_tick_interval, {look_every}}}]].")  # fmt: skip


def _reconciled(transport: RabbitTransport, me: Worker, claims: list[bytes]) -> Consumer | None:
    consumer = transport.consume([QUEUE], me)
    try:
        assert set(consumer.reconcile(claims).lost) == set(claims)
    except BrokerUnavailable:
        return None
    return consumer


def _settled(settle: Callable[[], Sequence[bytes]]) -> bool:
    try:
        return list(settle()) == []
    except BrokerFull:
        return False


def _certify(folder: Path) -> None:
    """Makes an authority, and a certificate of localhost."""

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    run("req", *key[:4], "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    run("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "names", "-out", "server.pem")  # fmt: skip
