"""How workers at Redis sleep and wake: one for one message, at once, and without asking all the time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import pytest
from redis_rig import DEADLINE, QUEUE, ack_all, consumer_of, publish, record, take, worker

from engine.contract import Ack, Consumer, Delivery, Record, Release
from engine_redis import RedisResults, RedisTransport
from servers import RedisServer, redis_server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of this file's own, which knows the scripts already: they are not counted."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        transport = RedisTransport(server.url, options={})
        consumer = consumer_of(transport)
        publish(transport, "one")
        ack_all(consumer, 1)
        consumer.renew([])
        consumer.close()
        transport.close()
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """The server, empty."""
    shared.expect("FLUSHALL")
    return shared


@pytest.fixture
def transport(server: RedisServer) -> Iterator[RedisTransport]:
    """A client."""
    transport = RedisTransport(server.url, options={})
    yield transport
    transport.close()


def calls_of(server: RedisServer) -> int:
    """Returns how many commands clients have sent, not counting those inside scripts, nor this rig's."""
    text = server.expect("INFO", "commandstats")
    assert isinstance(text, bytes)
    stats = dict(line.split(":", 1) for line in text.decode().splitlines() if line.startswith("cmdstat_"))
    return sum(
        int(stats[name].split(",")[0].split("=")[1]) for name in ("cmdstat_evalsha", "cmdstat_blpop") if name in stats
    )


def wait_for_sleepers(server: RedisServer, count: int) -> None:
    """Waits until so many workers sleep at the bells."""
    deadline = time.monotonic() + DEADLINE
    while int(server.info()["blocked_clients"]) != count:
        assert time.monotonic() < deadline, f"waited for {count} sleepers"
        time.sleep(0.005)


def put_to_sleep(server: RedisServer, consumer: Consumer) -> None:
    """Has a consumer listen at the bells: on a busy machine one short fetch may end before it gets there."""
    deadline = time.monotonic() + DEADLINE
    while int(server.info()["blocked_clients"]) != 1:
        assert time.monotonic() < deadline, "waited for it to sleep"
        assert list(consumer.fetch(1, 0.02)) == []


def sleeping(lane: ThreadPoolExecutor, consumer: Consumer, limit: int = 1) -> Future[list[Delivery]]:
    """Has a consumer wait for messages."""
    return lane.submit(lambda: list(consumer.fetch(limit, 15)))


def test_one_message_wakes_one_worker(server: RedisServer, transport: RedisTransport) -> None:
    consumers = [consumer_of(transport) for _ in range(5)]
    with ThreadPoolExecutor(5) as lane:
        waiting = [sleeping(lane, consumer) for consumer in consumers]
        wait_for_sleepers(server, 5)
        before = calls_of(server)
        publish(transport, "one")
        # A sleeper that was rung for is none to the server before it has asked.
        wait(waiting, timeout=15, return_when=FIRST_COMPLETED)
        wait_for_sleepers(server, 4)
        assert calls_of(server) - before == 2, "one to publish, one to fetch"
        publish(transport, "two", "three")
        wait_for_sleepers(server, 2)
        for consumer in consumers:
            consumer.wake()
        taken = [delivery.id for future in waiting for delivery in future.result(15)]
        assert sorted(taken) == ["one", "three", "two"]
    for consumer in consumers:
        consumer.close()


def test_who_got_all_there_was_goes_to_sleep_without_another_look(
    server: RedisServer, transport: RedisTransport
) -> None:
    consumer = consumer_of(transport)
    with ThreadPoolExecutor(1) as lane:
        waiting = sleeping(lane, consumer, 10)
        wait_for_sleepers(server, 1)
        before = calls_of(server)
        publish(transport, "one")
        assert [one.id for one in waiting.result(15)] == ["one"]
        waiting = sleeping(lane, consumer, 10)
        wait_for_sleepers(server, 1)
        assert calls_of(server) - before == 3, "one to publish, one to fetch, one to sleep"
        publish(transport, "two")
        assert [one.id for one in waiting.result(15)] == ["two"]
        # What comes before it sleeps is not missed, nor by one that has no time to sleep.
        publish(transport, "three")
        assert [one.id for one in consumer.fetch(10, 0)] == ["three"]
        publish(transport, "four")
        assert [one.id for one in consumer.fetch(10, 15)] == ["four"]
    consumer.close()


def test_a_message_of_another_queue_wakes_nobody(server: RedisServer, transport: RedisTransport) -> None:
    mine, other = consumer_of(transport, "mine"), consumer_of(transport, "other")
    with ThreadPoolExecutor(2) as lane:
        waiting = sleeping(lane, mine)
        hoping = sleeping(lane, other)
        wait_for_sleepers(server, 2)
        before = calls_of(server)
        publish(transport, "one", queue="mine")
        assert [one.id for one in waiting.result(15)] == ["one"]
        assert calls_of(server) - before == 2
        other.wake()
        assert hoping.result(15) == []
    mine.close()
    other.close()


def test_a_worker_that_wants_nothing_leaves_the_ring_to_others(server: RedisServer, transport: RedisTransport) -> None:
    busy, idle = consumer_of(transport), consumer_of(transport)
    put_to_sleep(server, busy)
    with ThreadPoolExecutor(2) as lane:
        parked = sleeping(lane, busy, 0)
        wait_for_sleepers(server, 0)
        waiting = sleeping(lane, idle)
        wait_for_sleepers(server, 1)
        publish(transport, "one")
        assert [one.id for one in waiting.result(15)] == ["one"]
        busy.wake()
        assert parked.result(15) == []
    busy.close()
    idle.close()


def test_a_ring_taken_just_before_is_given_on(server: RedisServer, transport: RedisTransport) -> None:
    busy, idle = consumer_of(transport), consumer_of(transport)
    put_to_sleep(server, busy)
    publish(transport, "one")
    wait_for_sleepers(server, 0)
    with ThreadPoolExecutor(2) as lane:
        waiting = sleeping(lane, idle)
        assert [one.id for one in waiting.result(15)] == ["one"]
        assert consumer_settles(idle)
        assert list(idle.fetch(1, 0.01)) == []
        publish(transport, "two")
        assert list(busy.fetch(0, 0.01)) == []
        assert [two.id for two in sleeping(lane, idle).result(15)] == ["two"]
    busy.close()
    idle.close()


def consumer_settles(consumer: Consumer) -> bool:
    """Gives back nothing: a call of the settle lane in between."""
    return list(consumer.settle([Release(b"1 none")])) == [b"1 none"]


def test_what_one_worker_leaves_another_gets(server: RedisServer, transport: RedisTransport) -> None:
    consumers = [consumer_of(transport) for _ in range(4)]
    with ThreadPoolExecutor(4) as lane:
        waiting = [sleeping(lane, consumer, 5) for consumer in consumers]
        wait_for_sleepers(server, 4)
        publish(transport, *(f"m{n}" for n in range(18)))
        assert sorted(len(future.result(15)) for future in waiting) == [3, 5, 5, 5]
    for consumer in consumers:
        consumer.close()


def test_lower_priorities_left_behind_wake_another(server: RedisServer, transport: RedisTransport) -> None:
    first, second = consumer_of(transport), consumer_of(transport)
    with ThreadPoolExecutor(2) as lane:
        waiting = [sleeping(lane, first), sleeping(lane, second)]
        wait_for_sleepers(server, 2)
        with_low = RedisTransport(server.url, options={})
        publish(with_low, "low")
        publish(with_low, "high", priority=9)
        assert sorted(one.id for future in waiting for one in future.result(15)) == ["high", "low"]
        with_low.close()
    first.close()
    second.close()


def test_sleepers_get_up_for_what_is_due_earlier_than_they_thought(
    server: RedisServer, transport: RedisTransport
) -> None:
    consumer = consumer_of(transport)
    publish(transport, "late", due=time.time() + 3600)
    with ThreadPoolExecutor(1) as lane:
        waiting = sleeping(lane, consumer)
        wait_for_sleepers(server, 1)
        due = time.time() + 0.2
        publish(transport, "soon", due=due)
        assert [one.id for one in waiting.result(15)] == ["soon"]
        assert time.time() >= due
    consumer.close()


def test_a_worker_of_another_queue_promotes_what_is_due(server: RedisServer, transport: RedisTransport) -> None:
    mine, other = consumer_of(transport, "mine"), consumer_of(transport, "other")
    with ThreadPoolExecutor(2) as lane:
        waiting = sleeping(lane, mine)
        wait_for_sleepers(server, 1)
        publish(transport, "one", queue="mine", due=time.time() + 0.1)
        hoping = sleeping(lane, other)
        assert [one.id for one in waiting.result(15)] == ["one"]
        other.wake()
        assert hoping.result(15) == []
    mine.close()
    other.close()


def test_a_lost_ring_is_made_up_for_at_the_next_beat(server: RedisServer, transport: RedisTransport) -> None:
    consumer = consumer_of(transport)
    put_to_sleep(server, consumer)
    server.expect("RPUSH", "{engine}:ready:0:default", "1 one")
    server.expect("HSET", "{engine}:messages", "one", "1 0:default\n{}")
    server.expect("HSET", "{engine}:lines", "default", "0")
    assert list(consumer.fetch(1, 0.05)) == [], "nobody rang"
    consumer.renew([])
    assert ack_all(consumer, 1) == ["one"]
    consumer.close()


def test_an_idle_worker_asks_twice_a_beat(server: RedisServer, transport: RedisTransport) -> None:
    consumer = consumer_of(transport)
    consumer.renew([])
    put_to_sleep(server, consumer)
    before = calls_of(server)
    for _ in range(5):
        consumer.renew([])
        consumer.takeover(3, 20)
        for _ in range(10):
            assert list(consumer.fetch(1, 0.005)) == []
            assert list(consumer.commands()) == []
    # With dead_after = 30 s a beat comes every 3 s: 0.7 commands a second.
    assert calls_of(server) - before == 10
    consumer.close()


def test_wake_is_never_missed(transport: RedisTransport) -> None:
    consumer = consumer_of(transport)
    for limit in (0, 1, 1, 0, 0, 1):
        waker = threading.Thread(target=consumer.wake)
        waker.start()
        assert list(consumer.fetch(limit, 60)) == []
        waker.join()
    consumer.close()


def test_orders_reach_sleepers_and_those_who_want_nothing(server: RedisServer, transport: RedisTransport) -> None:
    consumers = [consumer_of(transport), consumer_of(transport)]
    with ThreadPoolExecutor(2) as lane:
        waiting = [sleeping(lane, consumer, limit) for consumer, limit in zip(consumers, (0, 1), strict=True)]
        wait_for_sleepers(server, 1)
        transport.broadcast(b"order")
        for future, consumer in zip(waiting, consumers, strict=True):
            assert future.result(15) == []
            assert list(consumer.commands()) == [b"order"]
            consumer.close()


def test_an_order_sent_while_a_dispatcher_was_replaced_is_heard(transport: RedisTransport) -> None:
    me = worker()
    consumer = consumer_of(transport, worker=me)
    transport.broadcast(b"one")
    assert list(consumer.commands()) == [b"one"]
    assert list(consumer.commands()) == []
    transport.broadcast(b"two")
    successor = transport.consume([QUEUE], me)
    successor.fetch(0, 0)
    assert list(successor.commands())[-1] == b"two"
    successor.close()


def test_a_hundred_queues(server: RedisServer, transport: RedisTransport) -> None:
    queues = [f"q{n}" for n in range(100)]
    consumer = consumer_of(transport, *queues)
    for queue in queues:
        publish(transport, f"{queue}-1", f"{queue}-2", queue=queue)
    taken = take(consumer, 100)
    assert {delivery.queue for delivery in taken} == set(queues), "one of each, in turn"
    assert consumer.settle([Ack(delivery.claim) for delivery in taken]) == []
    assert len(ack_all(consumer, 100)) == 100
    assert server.expect("EXISTS", "{engine}:messages") == 0
    consumer.close()


def test_a_short_queue_has_its_share_of_each_fetch(server: RedisServer, transport: RedisTransport) -> None:
    queues = [f"q{n}" for n in range(20)]
    consumer = consumer_of(transport, *queues, "short", "shorter")
    for queue in queues:
        publish(transport, *(f"{queue}-{n}" for n in range(10)), queue=queue)
    publish(transport, "a", "b", "c", "d", queue="short")
    publish(transport, "e", queue="shorter")
    first = Counter(delivery.queue for delivery in consumer.fetch(65, 0))
    assert first["short"] in (2, 3)
    assert first["shorter"] == 1
    assert first.total() == 65, "what a short queue does not need the others get"
    assert {first[queue] for queue in queues} <= {2, 3, 4}
    second = Counter(delivery.queue for delivery in consumer.fetch(21, 0))
    assert second == dict.fromkeys([*queues, "short"], 1)
    consumer.close()


def test_bells_that_rang_for_what_is_taken_wake_nobody(server: RedisServer, transport: RedisTransport) -> None:
    queues = [f"q{n}" for n in range(10)]
    consumer = consumer_of(transport, *queues)
    for queue in queues:
        publish(transport, f"{queue}-low", f"{queue}-lower", queue=queue)
        publish(transport, f"{queue}-high", queue=queue, priority=9)
    bells = [f"{{engine}}:bell:{queue}" for queue in queues]
    assert server.expect("EXISTS", *bells) == 10
    assert len(take(consumer, 30)) == 30
    assert list(consumer.fetch(1, 0.0)) == [], "only this look shows that nothing is left"
    assert server.expect("EXISTS", *bells) == 0
    consumer.close()


def test_results_come_without_a_word_too(server: RedisServer) -> None:
    results = RedisResults(server.url, expires=60, options={})
    other = RedisResults(server.url, expires=60, options={})
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(lambda: list(results.wait(["one"], 30)))
        deadline = time.monotonic() + DEADLINE
        while not server.expect("HEXISTS", "{engine}:waiting", "one"):
            assert time.monotonic() < deadline
        server.expect("DEL", "{engine}:waiting")
        other.store([record("one")])
        assert [one.id for one in waiting.result(15)] == ["one"]
    results.close()
    other.close()


def test_many_results_take_one_subscription(server: RedisServer) -> None:
    results = RedisResults(server.url, expires=60, options={})
    other = RedisResults(server.url, expires=60, options={})
    ids = [f"r{n}" for n in range(1200)]
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(lambda: [one.id for one in results.wait(ids, 30)])
        deadline = time.monotonic() + DEADLINE
        while server.expect("HLEN", "{engine}:waiting") != 1200:
            assert time.monotonic() < deadline
        channels = server.expect("PUBSUB", "CHANNELS", "*ended*")
        assert isinstance(channels, list)
        assert len(channels) == 1
        other.store([record(id) for id in ids])
        assert sorted(waiting.result(15)) == sorted(ids)
    assert server.expect("EXISTS", "{engine}:waiting", "{engine}:waitends") == 0
    results.close()
    other.close()


def test_two_clients_may_wait_for_one_result(server: RedisServer) -> None:
    clients = [RedisResults(server.url, expires=60, options={}) for _ in range(3)]
    with ThreadPoolExecutor(2) as lanes:
        waiting = [lanes.submit(lambda c=client: list(c.wait(["one"], 30))) for client in clients[:2]]  # type: ignore[misc]
        deadline = time.monotonic() + DEADLINE
        while len(str(server.expect("HGET", "{engine}:waiting", "one")).split(" ")) != 2:
            assert time.monotonic() < deadline
        clients[2].store([Record("one", "STARTED", 1.0, 0, 1, b"{}"), record("one")])
        assert [[one.id for one in future.result(15)] for future in waiting] == [["one"], ["one"]]
    for client in clients:
        client.close()


def test_clients_that_are_gone_are_forgotten(server: RedisServer) -> None:
    results = RedisResults(server.url, expires=60, options={})
    assert list(results.wait(["never"], 0)) == []
    assert server.expect("HLEN", "{engine}:waiting") == 1
    server.expect("ZADD", "{engine}:waitends", 1, "never")
    assert list(results.wait(["other"], 0)) == []
    assert server.expect("HKEYS", "{engine}:waiting") == [b"other"]
    results.close()
