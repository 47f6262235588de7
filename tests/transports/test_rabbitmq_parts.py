"""The parts of the RabbitMQ transport that need no server."""

from __future__ import annotations

import pytest

from engine.errors import BrokerUnavailable
from engine_rabbitmq import delay_ladder
from engine_rabbitmq.acks import DeliveryTags
from engine_rabbitmq.prefetch import MOST, PrefetchSize
from engine_rabbitmq.subscriptions import Subscriptions
from engine_rabbitmq.transport import RabbitTransport

FIRST, SECOND = ("first", 0), ("second", 0)


def test_a_subscription_grows_by_another_one() -> None:
    subscriptions = Subscriptions("s")
    assert subscriptions.add([FIRST], 2) == [("s.0", FIRST, 2)]
    assert subscriptions.add([FIRST, SECOND], 5) == [("s.1", FIRST, 3), ("s.2", SECOND, 5)]
    assert subscriptions.add([FIRST, SECOND], 5) == []


def test_what_the_server_has_ended_is_missing_again() -> None:
    subscriptions = Subscriptions("s")
    subscriptions.add([FIRST], 2)
    subscriptions.add([FIRST], 3)
    assert subscriptions.remove("s.0") == FIRST
    assert subscriptions.remove("s.0") is None
    assert subscriptions.add([FIRST], 3) == [("s.2", FIRST, 2)]


def test_places_that_are_not_wanted_are_given_up_with_all_their_subscriptions() -> None:
    subscriptions = Subscriptions("s")
    subscriptions.add([FIRST, SECOND], 1)
    subscriptions.add([FIRST, SECOND], 2)
    assert subscriptions.remove_others([SECOND]) == ["s.0", "s.2"]
    assert subscriptions.remove_others(()) == ["s.1", "s.3"]


def test_a_place_is_full_when_it_has_pushed_all_that_it_may() -> None:
    subscriptions = Subscriptions("s")
    subscriptions.add([FIRST, SECOND], 2)
    for _ in range(2):
        subscriptions.pushed(FIRST)
        subscriptions.pushed(SECOND)
    subscriptions.settled(SECOND)
    assert set(subscriptions.full) == {FIRST}
    subscriptions.add([FIRST], 3)
    assert set(subscriptions.full) == set()
    subscriptions.pushed(FIRST)
    assert set(subscriptions.full) == {FIRST}


def test_what_was_pushed_does_not_count_against_the_next_subscriptions() -> None:
    subscriptions = Subscriptions("s")
    subscriptions.add([FIRST], 1)
    subscriptions.pushed(FIRST)
    subscriptions.remove_others(())
    assert set(subscriptions.full) == set()
    subscriptions.add([FIRST], 1)
    assert set(subscriptions.full) == set()


def test_what_is_wanted_is_shared_among_the_queues() -> None:
    prefetch = PrefetchSize()
    assert prefetch.size_for(4, 6, places=1) == 10
    assert prefetch.size_for(4, 6, places=100) == 1
    assert prefetch.size_for(1000, 2000, places=100) == 32
    assert prefetch.size_for(1000, 10_000, places=1) == MOST


@pytest.mark.parametrize(
    ("delivered", "settled", "acks"),
    [
        ([1, 2, 3], [1, 2, 3], [(3, True)]),
        ([1, 2, 3], [1], [(1, False)]),
        ([1, 2, 3], [3], [(3, False)]),
        ([1, 2, 3, 4], [1, 2, 4], [(2, True), (4, False)]),
    ],
)
def test_acknowledgements_are_few(delivered: list[int], settled: list[int], acks: list[tuple[int, bool]]) -> None:
    tags = DeliveryTags()
    for tag in delivered:
        tags.delivered(tag)
    assert tags.settle(settled) == acks


def test_what_was_acknowledged_alone_is_passed_over_later() -> None:
    tags = DeliveryTags()
    for tag in (1, 2, 3):
        tags.delivered(tag)
    assert tags.settle([2]) == [(2, False)]
    assert tags.settle([1, 3]) == [(3, True)]


@pytest.mark.parametrize("seconds", [0.001, 0.0625, 0.1, 1, 59.99, 86_400, 30 * 365 * 86_400])
def test_a_message_takes_as_long_as_the_rungs_on_its_way(seconds: float) -> None:
    exchange, key = delay_ladder.delayed("a.queue.p3", seconds)
    bits, _, place = key.rpartition(".")
    rungs = [delay_ladder.RUNGS - 1 - at for at, bit in enumerate(bits.split(".")) if bit == "1"]
    assert delay_ladder.rung_of(exchange) == rungs[0], "it begins at the highest rung that holds it"
    assert seconds <= sum(2**rung * delay_ladder.STEP for rung in rungs) < seconds + delay_ladder.STEP + 1e-6
    assert delay_ladder.target(key) == "a.queue"
    assert "." not in place


def test_nobody_who_listens_is_said_without_a_number() -> None:
    transport = RabbitTransport("amqp://guest:secret@127.0.0.1:1/", options={})
    with pytest.raises(BrokerUnavailable) as refused:
        transport.counts(["default"])
    assert str(refused.value) == "amqp://guest@127.0.0.1:1/: Connection refused"
    transport.close()
