"""What the Redis transport survives: memory running out, a killed server, lost replies, a hanging link."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis_rig import QUEUE, ack_all, consumer_of, publish, put_pressure, record, take, url_of, worker

from engine.contract import Ack, Again, Batch, Consumer, Dead, Delivery, Envelope, Release
from engine.errors import BrokerFull, BrokerUnavailable
from engine.testing.faults.proxy import Proxy
from engine_redis import RedisResults, RedisTransport
from servers import RedisServer, redis_server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of this file's own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> Iterator[RedisServer]:
    """The server, empty and without a limit."""
    shared.expect("CONFIG", "SET", "maxmemory", 0)
    shared.expect("FLUSHALL")
    yield shared
    shared.expect("CONFIG", "SET", "maxmemory", 0)


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that keeps an append-only file: with "everysec" a slow disk may hold up what was answered already."""
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    """A proxy before the server."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


def test_a_full_redis_drains(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={})
    results = RedisResults(server.url, expires=60, options={})
    assert transport.share_results(results)
    consumer = consumer_of(transport)
    publish(transport, *(f"m{n}" for n in range(200)), body=b"x" * 1000)
    publish(transport, "later", due=time.time() + 0.2)
    put_pressure(server)
    with pytest.raises(BrokerFull, match="out of memory") as refused:
        publish(transport, "refused")
    assert "script" not in str(refused.value)
    with pytest.raises(BrokerFull):
        transport.publish([Envelope("refused", b"{}")], batch=Batch("producer", 1))
    assert transport.find("refused") is None
    taken = take(consumer, 200)
    consumer.renew([delivery.claim for delivery in taken])
    assert consumer.settle([Again(taken[0].claim, Envelope(taken[0].id, b"again", due=time.time() + 0.1))]) == []
    assert consumer.settle([Release(taken[1].claim, counts="delivery"), Dead(taken[2].claim, "reason")]) == []
    assert consumer.settle([Ack(one.claim, record(one.id)) for one in taken[3:]]) == []
    results.store([record("without a claim")])
    assert len(results.get([one.id for one in taken])) == 197
    assert sorted(ack_all(consumer, 3)) == sorted([taken[0].id, taken[1].id, "later"])
    assert server.info()["maxmemory"] != "0"
    consumer.close()
    server.expect("CONFIG", "SET", "maxmemory", 0)
    transport.publish([Envelope("refused", b"{}")], batch=Batch("producer", 1))
    assert transport.find("refused") is not None, "what was refused was not remembered as published"
    transport.close()
    results.close()


def test_scripts_that_redis_has_forgotten_are_sent_again_also_when_it_is_full(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={})
    consumer = consumer_of(transport)
    publish(transport, "one")
    put_pressure(server)
    server.expect("SCRIPT", "FLUSH")
    (one,) = take(consumer, 1)
    server.expect("SCRIPT", "FLUSH")
    assert consumer.settle([Ack(one.claim)]) == []
    consumer.close()
    transport.close()


@pytest.mark.parametrize("queues", [("mine", "theirs"), ("theirs", "mine")])
def test_a_line_that_somebody_overwrote_costs_the_others_no_message(
    server: RedisServer, queues: tuple[str, str]
) -> None:
    transport = RedisTransport(server.url, options={})
    consumer = consumer_of(transport, *queues)
    publish(transport, "one", queue="mine")
    publish(transport, "two", queue="theirs")
    server.expect("SET", "{engine}:ready:0:theirs", "no list")
    assert [one.id for one in take(consumer, 1)] == ["one"]
    with pytest.raises(BrokerUnavailable, match="wrong kind of value"):
        consumer.fetch(10, 0)
    assert server.expect("GET", "{engine}:ready:0:theirs") == b"no list"
    consumer.close()
    transport.close()


def test_a_killed_redis_with_an_append_only_file_loses_nothing(durable: RedisServer) -> None:
    transport = RedisTransport(durable.url, options={})
    me = worker()
    consumer = consumer_of(transport, worker=me)
    publish(transport, "held", "ready", "crashed")
    publish(transport, "later", due=time.time() + 0.5)
    held, ready, _ = take(consumer, 3)
    consumer.settle([Release(ready.claim)])
    for _ in range(3):
        durable.kill()
        with pytest.raises(BrokerUnavailable, match=r"redis at 127\.0\.0\.1"):
            consumer.settle([Ack(held.claim)])
        durable.start()
        with contextlib.suppress(BrokerUnavailable):
            consumer.renew([])
        consumer = transport.consume([QUEUE], me)
        reconciled = consumer.reconcile([held.claim])
        assert [delivery.id for delivery in reconciled.held] == ["held"]
    assert consumer.settle([Ack(held.claim)]) == []
    assert sorted(ack_all(consumer, 3)) == ["crashed", "later", "ready"]
    assert transport.counts([QUEUE])[QUEUE].claimed == 0
    consumer.close()
    transport.close()


def test_a_redis_that_lost_its_data_is_told_and_used_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    transport = RedisTransport(server.url, options={})
    consumer = consumer_of(transport)
    publish(transport, "one")
    (one,) = take(consumer, 1)
    server.expect("FLUSHALL")
    assert consumer.settle([Ack(one.claim)]) == [one.claim]
    consumer.renew([])
    assert "has forgotten this worker" in caplog.text
    publish(transport, "two")
    assert [two.id for two in take(consumer, 1)] == ["two"]
    consumer.close()
    transport.close()


def _work(transport: RedisTransport, consumer: Consumer, held: dict[bytes, Delivery], seen: list[str]) -> None:
    """One round of a worker: settles what it holds, fetches, beats. Each may fail."""
    for claim, delivery in list(held.items()):
        retried = delivery.body == b"once"
        end = Again(claim, Envelope(delivery.id, b"twice")) if retried else Ack(claim)
        stale = consumer.settle([end])
        del held[claim]
        if not stale and not retried:
            seen.append(delivery.id)
    for delivery in consumer.fetch(3, 0.01):
        held[delivery.claim] = delivery
    consumer.renew(list(held))


@pytest.mark.parametrize("switch", ["lose", "tear"])
def test_a_bad_link_leaves_nothing_stuck_and_nothing_twice(server: RedisServer, proxy: Proxy, switch: str) -> None:
    ids = {f"m{n}" for n in range(300)}
    transport = RedisTransport(url_of(proxy), options={"timeout": 2.0})
    setattr(proxy, switch, 0.05)
    _send_until_sent(transport, sorted(ids))
    me = worker()
    consumer = transport.consume([QUEUE], me)
    held: dict[bytes, Delivery] = {}
    seen: list[str] = []
    connected = False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if not connected:
                reconciled = consumer.reconcile(list(held))
                for claim in reconciled.lost:
                    del held[claim]
                connected = True
            _work(transport, consumer, held, seen)
        except BrokerUnavailable:
            consumer = transport.consume([QUEUE], me)
            connected = False
        if connected and not held and proxy.lost + proxy.torn > 20 and server.expect("HLEN", "{engine}:messages") == 0:
            break
    assert proxy.lost + proxy.torn > 20
    counts = RedisTransport(server.url, options={}).counts([QUEUE])[QUEUE]
    assert (counts.ready, counts.delayed, counts.claimed) == (0, 0, 0), "something is stuck"
    assert len(seen) == len(set(seen)), "something ran to its end twice"
    keys = server.expect("KEYS", "*")
    assert isinstance(keys, list)
    assert not {key for key in keys if b"claims" in key or b"ready" in key or b"tallies" in key or b"lines" in key}
    transport.close()


def _send_until_sent(transport: RedisTransport, ids: list[str]) -> None:
    for number, id in enumerate(ids):
        body = b"once" if random.random() < 0.3 else b"plain"
        while True:
            try:
                transport.publish([Envelope(id, body)], batch=Batch("producer", number))
                break
            except BrokerUnavailable:
                continue


def test_a_publish_that_is_repeated_after_its_end_is_not_run_again(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={})
    consumer = consumer_of(transport)
    many = [Envelope(f"m{n}", b"{}") for n in range(2500)]
    transport.publish(many, batch=Batch("producer", 1))
    assert len(ack_all(consumer, 2500)) == 2500
    transport.publish(many, batch=Batch("producer", 1))
    assert transport.counts([QUEUE])[QUEUE].ready == 0
    consumer.close()
    transport.close()


@pytest.mark.parametrize("call", ["publish", "renew", "fetch", "settle", "counts"])
def test_a_half_open_link_is_noticed(server: RedisServer, proxy: Proxy, call: str) -> None:
    transport = RedisTransport(url_of(proxy), options={"timeout": 0.5})
    consumer = consumer_of(transport)
    publish(transport, "one")
    (one,) = take(consumer, 1)
    calls = {
        "publish": lambda: publish(transport, "two"),
        "renew": lambda: consumer.renew([]),
        "fetch": lambda: (consumer.renew([]), consumer.fetch(1, 0)),
        "settle": lambda: consumer.settle([Ack(one.claim)]),
        "counts": transport.counts,
    }
    calls[call]()
    proxy.hanging = True
    with pytest.raises(BrokerUnavailable, match=r"no answer in 0\.5 s"):
        calls[call]()
    proxy.hanging = False
    calls[call]()
    consumer.close()
    transport.close()


def test_a_sleeping_worker_notices_that_its_connections_are_cut(server: RedisServer, proxy: Proxy) -> None:
    transport = RedisTransport(url_of(proxy), options={})
    consumer = consumer_of(transport)
    with ThreadPoolExecutor(1) as lane:
        fetched = lane.submit(consumer.fetch, 1, 60)
        _wait_for_sleepers(server, 1)
        proxy.cut()
        with pytest.raises(BrokerUnavailable, match=r"closed the connection|reset"):
            fetched.result(15)
    transport.close()


def _wait_for_sleepers(server: RedisServer, count: int) -> None:
    deadline = time.monotonic() + 15
    while int(server.info()["blocked_clients"]) < count:
        assert time.monotonic() < deadline, "nobody sleeps"
        time.sleep(0.005)


def test_a_hanging_redis_comes_back(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={"timeout": 0.3})
    consumer = consumer_of(transport)
    publish(transport, "one")
    server.pause()
    try:
        with pytest.raises(BrokerUnavailable, match="no answer"):
            consumer.renew([])
        with pytest.raises(BrokerUnavailable):
            transport.counts()
    finally:
        server.resume()
    server.wait_until_up()
    consumer.renew([])
    assert [one.id for one in take(consumer, 1)] == ["one"]
    consumer.close()
    transport.close()


def test_an_idle_connection_that_the_server_closed_is_no_outage(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={})
    transport.counts()
    server.expect("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    transport.counts()
    transport.close()
