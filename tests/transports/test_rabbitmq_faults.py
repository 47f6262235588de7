"""What goes wrong at RabbitMQ is said in a sentence, and costs no message."""

from __future__ import annotations

import datetime
import decimal
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pika
import pytest
from rabbit_server import shared

from engine.contract import Ack, Again, Batch, Consumer, Dead, Delivery, Envelope, Release, Transport, Worker
from engine.errors import BrokerUnavailable, ConfigError, TransportError
from engine.testing.faults.proxy import Proxy
from engine.testing.faults.rabbitmq import Rabbit
from engine.testing.transport_suite_kit import QUEUE, wait_for
from engine_rabbitmq import RabbitResults, RabbitTransport

_numbers = itertools.count()


def worker(tmp_path: Path) -> Worker:
    """A worker of this host."""
    return Worker(f"worker-{next(_numbers)}", "host", "boot", str(tmp_path / "lock"))


def ids(consumer: Consumer, count: int) -> list[str]:
    """Takes and acknowledges messages until ``count`` came."""
    return [delivery.id for delivery in take(consumer, count)]


def take(consumer: Consumer, count: int, *, settle: bool = True) -> list[Delivery]:
    """Takes, and acknowledges, messages until ``count`` came."""
    taken: list[Delivery] = []

    def more() -> bool:
        found = consumer.fetch(count - len(taken), 0.2)
        if settle:
            consumer.settle([Ack(one.claim) for one in found])
        taken.extend(found)
        return len(taken) >= count

    wait_for(more, f"{count} messages")
    return taken


def send(transport: Transport, *ids: str, **fields: Any) -> None:
    """Sends messages."""
    transport.publish([Envelope(id=id, body=b"{}", **fields) for id in ids])


@pytest.fixture
def server() -> Rabbit:
    """The node that the tests share."""
    return shared()


@pytest.fixture
def vhost(server: Rabbit) -> str:
    """A virtual host of the test's own."""
    return server.virtual_host()


@pytest.fixture
def transport(server: Rabbit, vhost: str) -> Iterator[RabbitTransport]:
    """A transport at it."""
    transport = RabbitTransport(server.url_of(vhost), options={})
    yield transport
    transport.close()


@pytest.fixture
def foreign(server: Rabbit, vhost: str) -> Iterator[Any]:
    """Somebody else's channel in the same virtual host."""
    connection = pika.BlockingConnection(pika.URLParameters(server.url_of(vhost)))
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    connection.close()


# What is wrong with the configuration.


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://", "write amqp://user:password@host/vhost"),
        ("amqp://host:port/v", "write amqp://user:password@host/vhost"),
        ("amqp://host/v?heartbeat=5", "options are keys of the section"),
        ("amqp://host/a/b", "%2F"),
    ],
)
def test_a_url_that_cannot_be_read_says_what_to_write(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RabbitTransport(url, options={})
    with pytest.raises(ConfigError, match=r"\[results\]"):
        RabbitResults(url, expires=60, options={})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"queue_type": "quorate"}, '"quorum" or "classic"'),
        ({"heartbeat": 0.1}, "between 1 and 600"),
        ({"ca_file": "/none.pem"}, "/none.pem"),
    ],
)
def test_an_option_that_cannot_be_says_what_to_write(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RabbitTransport("amqps://localhost/", options=options)


def test_a_wrong_password_is_named_without_showing_it(server: Rabbit) -> None:
    transport = RabbitTransport(server.url_of(user="guest:secret"), options={})
    with pytest.raises(ConfigError, match=r"amqp://guest@127.0.0.1:\d+/%2F: wrong user or password"):
        transport.check()
    with pytest.raises(BrokerUnavailable) as caught:
        send(transport, "one")
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="wrong user"):
        RabbitResults(server.url_of(user="guest:secret"), expires=60, options={}).check()


def test_a_virtual_host_that_does_not_exist_is_named(server: Rabbit) -> None:
    with pytest.raises(ConfigError, match="/none: the virtual host does not exist"):
        RabbitTransport(server.url_of("none"), options={}).check()


def test_missing_permissions_are_named(server: Rabbit, vhost: str) -> None:
    server.control("add_user", f"weak-{vhost}", "pw")
    server.control("set_permissions", "-p", vhost, f"weak-{vhost}", "^none$", ".*", ".*")
    transport = RabbitTransport(server.url_of(vhost, f"weak-{vhost}:pw"), options={})
    with pytest.raises(ConfigError, match="access refused"):
        transport.check()
    transport.close()


def test_nobody_listening_is_unavailable() -> None:
    with pytest.raises(BrokerUnavailable, match=r"amqp://127\.0\.0\.1:1/"):
        RabbitTransport("amqp://127.0.0.1:1/", options={}).check()


def test_the_next_host_is_tried(server: Rabbit, vhost: str) -> None:
    url = f"amqp://guest:guest@127.0.0.1:1,127.0.0.1:{server.port}/{vhost}"
    transport = RabbitTransport(url, options={})
    send(transport, "one")
    assert transport.counts([QUEUE])[QUEUE].ready == 1
    transport.close()


@pytest.mark.parametrize("name", ["amq.gen", "engine.delay.1", "mine.dead", "mine.p5", "x" * 200, ""])
def test_a_queue_whose_name_cannot_be_is_refused(transport: RabbitTransport, name: str) -> None:
    with pytest.raises(TransportError, match="name must"):
        send(transport, "one", queue=name)
    send(transport, "two")


# What other hands left there.


def test_a_queue_that_was_declared_otherwise_is_used_as_it_is(
    transport: RabbitTransport, foreign: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "classic"})
    foreign.basic_publish("", QUEUE, b"{}", pika.BasicProperties(message_id="before"))
    consumer = transport.consume([QUEUE], worker(tmp_path))
    consumer.reconcile(())
    assert "queue 'default' was declared with other arguments and is used as it is" in caplog.text
    send(transport, "one", "two", priority=5)
    assert sorted(ids(consumer, 3)) == ["before", "one", "two"]


STRANGE: list[tuple[bytes, dict[str, Any]]] = [
    (b"", {}),
    (b"\xff\xfe garbage", {"message_id": ""}),
    (b"{}", {"headers": {"engine-deliveries": "many", "engine-crashes": -3, "x-delivery-count": [1], "x-death": 7}}),
    (b"{}", {"headers": {"engine-deliveries": 2**62, "engine-replayed": "yes", "engine-sent": "then"}}),
    (b"{}", {"headers": {"d": decimal.Decimal("1.5"), "t": datetime.datetime.now(datetime.UTC), "n": None, "l": [{}]}}),
    (b"{}", {"headers": {"b": b"\xff", "u": "ü" * 1000, "nested": {"a": {"b": [1, True]}}}}),
    (b"{}", {"priority": 200, "expiration": "600000", "delivery_mode": 1, "content_encoding": "rot13"}),
    (b"x" * 300_000, {"correlation_id": "c", "reply_to": "r", "type": "t", "user_id": "guest", "app_id": "a"}),
]


def test_strange_messages_arrive_and_stop_nothing(transport: RabbitTransport, foreign: Any, tmp_path: Path) -> None:
    send(transport, "first")
    for body, properties in STRANGE:
        foreign.basic_publish("", QUEUE, body, pika.BasicProperties(**properties))
    send(transport, "last")
    consumer = transport.consume([QUEUE], worker(tmp_path))
    taken = take(consumer, len(STRANGE) + 2)
    assert [one.body for one in taken[1:-1]] == [body for body, _ in STRANGE]
    assert len({one.id for one in taken}) == len(taken), "each has a name of its own"
    assert all(0 <= one.priority <= 9 and one.deliveries >= 1 and one.crashes >= 0 for one in taken)


def test_strange_messages_can_be_released_buried_and_listed(
    transport: RabbitTransport, foreign: Any, tmp_path: Path
) -> None:
    send(transport, "mine")
    consumer = transport.consume([QUEUE], worker(tmp_path))
    ids(consumer, 1)
    for body, properties in STRANGE:
        foreign.basic_publish("", QUEUE, body, pika.BasicProperties(**properties))
        foreign.basic_publish("", f"{QUEUE}.dead", body, pika.BasicProperties(**properties))
    back: list[Delivery] = []
    wait_for(lambda: back.extend(consumer.fetch(20, 0.2)) or len(back) == len(STRANGE), "them")
    consumer.settle([Release(one.claim) for one in back])
    again: list[Delivery] = []
    wait_for(lambda: again.extend(consumer.fetch(20, 0.2)) or len(again) == len(STRANGE), "them again")
    consumer.settle([Dead(one.claim, "strange") for one in again])
    assert transport.counts([QUEUE])[QUEUE].dead == 2 * len(STRANGE)
    letters = transport.dead()
    assert {letter.reason for letter in letters} >= {
        "strange",
        "put there by RabbitMQ or by other hands: no reason given",
    }
    assert transport.drop([letter.id for letter in letters]) == len(letters)


def test_strange_entries_of_the_streams_are_passed_over(
    transport: RabbitTransport, foreign: Any, tmp_path: Path
) -> None:
    send(transport, "one")
    transport.revoke(["other"], time.time() + 60)
    for stream in ("engine.queues", "engine.revoked"):
        for body in (b"", b"\xff", b"[]", b'{"queue": 5}', b'{"ids": "all"}'):
            foreign.basic_publish("", stream, body)
    consumer = transport.consume([QUEUE], worker(tmp_path))
    assert ids(consumer, 1) == ["one"]


# What happens to connections.


def test_a_lost_connection_ends_the_consumer_and_the_next_one_goes_on(
    server: Rabbit, vhost: str, transport: RabbitTransport, tmp_path: Path
) -> None:
    me = worker(tmp_path)
    consumer = transport.consume([QUEUE], me)
    send(transport, "one", "two")
    first = wait_for(lambda: consumer.fetch(1, 0.2), "a message")[0]
    server.control("close_all_connections", "--vhost", vhost, "a test")
    with pytest.raises(BrokerUnavailable, match="closed the connection"):
        wait_for(lambda: consumer.fetch(0, 0.1), "the loss")
    with pytest.raises(BrokerUnavailable):
        consumer.settle([Ack(first.claim)])
    again = transport.consume([QUEUE], me)
    assert list(again.reconcile([first.claim]).lost) == [first.claim]
    assert list(again.settle([Ack(first.claim)])) == [first.claim]
    back = take(again, 2)
    assert {(one.id, one.gate) for one in back if one.id == "one"} == {("one", True)}


def test_a_silent_server_is_noticed(server: Rabbit, vhost: str, tmp_path: Path) -> None:
    proxy = Proxy(server.port)
    url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/{vhost}"
    transport = RabbitTransport(url, options={"heartbeat": 1.0})
    consumer = transport.consume([QUEUE], worker(tmp_path))
    send(transport, "one")
    assert ids(consumer, 1) == ["one"]
    proxy.hanging = True
    with pytest.raises(BrokerUnavailable):
        wait_for(lambda: consumer.fetch(1, 0.2), "the loss")
    with pytest.raises(BrokerUnavailable):
        send(transport, "two")
    transport.close()
    proxy.close()


def test_what_is_sent_over_a_bad_line_is_not_lost(server: Rabbit, vhost: str, tmp_path: Path) -> None:
    proxy = Proxy(server.port, seed=7)
    transport = RabbitTransport(f"amqp://guest:guest@127.0.0.1:{proxy.port}/{vhost}", options={})
    sent: list[str] = []
    for number in range(30):
        proxy.lose = 0.05
        envelopes = [Envelope(id=f"m{number}.{n}", body=b"{}") for n in range(20)]

        def publish(number: int = number, envelopes: list[Envelope] = envelopes) -> bool:
            try:
                transport.publish(envelopes, batch=Batch("me", number))
            except BrokerUnavailable:
                return False
            return True

        wait_for(publish, "a batch to be sent")
        sent += [envelope.id for envelope in envelopes]
    proxy.lose = 0.0
    assert proxy.lost, "the proxy lost nothing"
    direct = RabbitTransport(server.url_of(vhost), options={})
    consumer = direct.consume([QUEUE], worker(tmp_path))
    seen: dict[str, int] = {}
    marked: set[str] = set()

    def drained() -> bool:
        found = consumer.fetch(200, 0.3)
        consumer.settle([Ack(one.claim) for one in found])
        for one in found:
            seen[one.id] = seen.get(one.id, 0) + 1
            marked.update({one.id} if one.gate else ())
        return not found

    wait_for(drained, "an empty queue")
    assert set(seen) == set(sent)
    assert {id for id, count in seen.items() if count > 1} <= marked, "a second copy says that it may be one"
    for one in (transport, direct):
        one.close()
    proxy.close()


def test_a_queue_that_is_deleted_is_declared_again(
    transport: RabbitTransport, foreign: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = transport.consume([QUEUE], worker(tmp_path))
    send(transport, "one")
    assert ids(consumer, 1) == ["one"]
    for name in (QUEUE, f"{QUEUE}.front", f"{QUEUE}.dead"):
        foreign.queue_delete(name)
    wait_for(lambda: "is gone: it is declared again" in caplog.text, "the news")
    send(transport, "two")
    assert ids(consumer, 1) == ["two"]


def test_a_delayed_message_whose_queue_is_deleted_is_a_dead_letter(
    transport: RabbitTransport, foreign: Any, tmp_path: Path
) -> None:
    send(transport, "later", queue="brief", due=time.time() + 0.3)
    for name in ("brief", "brief.front", "brief.dead"):
        foreign.queue_delete(name)
    (letter,) = wait_for(transport.dead, "the dead letter")
    assert (letter.id, letter.queue) == ("later", "brief")
    assert "deleted" in letter.reason
    assert transport.replay(["later"]) == 1
    assert ids(transport.consume(["brief"], worker(tmp_path)), 1) == ["later"]


def test_who_looks_through_dead_letters_waits_for_others(
    transport: RabbitTransport, foreign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = transport.consume([QUEUE], worker(tmp_path))
    send(transport, "one")
    (delivery,) = wait_for(lambda: consumer.fetch(1, 0.2), "it")
    consumer.settle([Dead(delivery.claim, "reason")])
    foreign.queue_declare("engine.look", exclusive=True)
    with monkeypatch.context() as hurried:
        hurried.setattr("engine_rabbitmq.exclusive._TURN", 0.2)
        with pytest.raises(BrokerUnavailable, match="somebody else is at the same"):
            transport.dead()
    with ThreadPoolExecutor(1) as client:
        looking = client.submit(transport.dead)
        foreign.queue_delete("engine.look")
        assert [letter.id for letter in looking.result(15)] == ["one"]


# What passes the gate.


def test_what_may_be_there_twice_is_not_held_up_as_if_its_run_went_on(
    server: Rabbit, vhost: str, transport: RabbitTransport, tmp_path: Path
) -> None:
    """A retry is marked, as its publish may be repeated: it waits for nobody to say that a run goes on. What came again
    after a loss does, also when it was given back meanwhile."""
    me = worker(tmp_path)
    consumer = transport.consume([QUEUE], me)
    send(transport, "retry", "plain")
    (before,) = take(consumer, 1, settle=False)
    consumer.settle([Again(before.claim, Envelope(id="retry", body=b"{}", replayed=True))])
    first = take(consumer, 2, settle=False)
    assert {(one.id, one.gate, one.copied) for one in first} == {("plain", False, False), ("retry", True, True)}
    server.control("close_all_connections", "--vhost", vhost, "a test")
    with pytest.raises(BrokerUnavailable):
        wait_for(lambda: consumer.fetch(0, 0.1), "the loss")
    again = transport.consume([QUEUE], me)
    for _ in range(2):
        back = take(again, 2, settle=False)
        assert {(one.id, one.gate, one.copied) for one in back} == {("plain", True, False), ("retry", True, False)}
        again.settle([Release(one.claim) for one in back])
