"""Calling: times, priorities, headers, links, bulk sends, arguments, on every transport."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
import semantics_tasks as tasks

from engine import SerializationError
from engine.testing.harness import wait_for


def test_countdown_and_eta_are_kept_to_and_countdown_beats_eta(site):
    sent = time.time()
    tasks.stamp.apply_async((1,), countdown=0.5)
    tasks.stamp.apply_async((2,), eta=datetime.now(UTC) + timedelta(seconds=0.6))
    tasks.stamp.apply_async((3,), countdown=0.4, eta=datetime.now(UTC) + timedelta(hours=1))
    tasks.stamp.apply_async((4,), eta=datetime(2020, 1, 1))
    wait_for(lambda: len(site.ledger("stamp")) == 4, "all of them to have run")
    late = {key: float(at) - sent for key, at in site.ledger("stamp")}
    assert 0.5 <= late["1"] < 10
    assert 0.6 <= late["2"] < 10
    assert 0.4 <= late["3"] < 10
    assert late["4"] < 10


@pytest.mark.needs("lists_scheduled")
def test_a_naive_eta_is_utc(site):
    result = tasks.tell.apply_async(eta=datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1))
    (entry,) = [one for one in site.broker(lambda transport: transport.scheduled()) if one.id == result.id]
    assert 3500 < entry.due - time.time() <= 3600
    result.revoke()


@pytest.mark.needs("finds")
def test_priority_nine_is_first_and_equals_are_in_order(site):
    gates = ["one child", "other child"]
    blockers = [tasks.wait_at.delay(gate) for gate in gates]
    for one in blockers:
        site.wait_start(one)
    priorities = (0, 5, 9, None, 3, 9, 0)
    sent = [tasks.ordered.apply_async((key,), priority=priority) for key, priority in enumerate(priorities)]
    # What was claimed ahead, in the order of coming, goes back when no child takes it.
    wait_for(lambda: all(site.place(one) == "ready" for one in sent), "all of them to be in the queue")
    site.open(gates[0])
    for one in sent:
        one.get(timeout=10)
    assert [int(line[0]) for line in site.ledger("order")] == [2, 5, 1, 4, 0, 3, 6]
    site.open(gates[1])
    assert [one.get(timeout=10) for one in blockers] == gates


def test_the_request_tells_of_the_call(site):
    expires = datetime.now(UTC) + timedelta(hours=1)
    result = tasks.tell.apply_async(
        (1, "two"),
        {"three": 3},
        headers={"tenant": "x", "n": 1},
        priority=4,
        expires=expires,
        countdown=0.01,
        time_limit=60,
        soft_time_limit=50,
        task_id="my own id",
    )
    told = result.get(timeout=10)
    assert result.id == told["id"] == "my own id"
    assert (told["args"], told["kwargs"]) == ([1, "two"], {"three": 3})
    assert (told["retries"], told["deliveries"], told["priority"], told["queue"]) == (0, 1, 4, "default")
    assert told["headers"] == {"tenant": "x", "n": 1}
    assert told["timelimit"] == [60, 50]
    assert datetime.fromisoformat(told["expires"]) == expires
    assert datetime.fromisoformat(told["eta"]).tzinfo is not None
    assert told["origin"].split("@")[0].isdigit()
    assert (told["root_id"], told["parent_id"]) == (result.id, None)
    assert (told["called_directly"], told["is_eager"]) == (False, False)
    assert told["hostname"]


def test_a_task_that_sends_tasks_is_their_parent_and_root(site):
    result = tasks.send_two.delay()
    first, second = result.get(timeout=10)
    assert [child.id for child in result.children] == [first, second]
    told = tasks.app.AsyncResult(first).get(timeout=10)
    assert (told["root_id"], told["parent_id"]) == (result.id, result.id)
    assert tasks.app.AsyncResult(second).get(timeout=10) == 3


def test_a_link_gets_the_value_and_an_immutable_one_does_not(site):
    result = tasks.add.apply_async((1, 2), link=[tasks.record_link.s("after"), tasks.record_link.si("alone")])
    result.get(timeout=10)
    wait_for(lambda: len(site.ledger("link")) >= 2, "both links to have run")
    assert [child.get(timeout=10) for child in result.children] == [None, None]
    assert sorted(site.ledger("link")) == [["3", "after"], ["alone"]]


def test_links_of_links_run_and_link_error_does_not_run_after_success(site):
    last = tasks.add.s(100).set(task_id="the last one")
    tasks.add.apply_async((1, 2), link=tasks.add.signature((10,), link=last), link_error=tasks.record_link.s("wrong"))
    assert tasks.app.AsyncResult("the last one").get(timeout=10) == 113
    assert not any("wrong" in line for line in site.ledger("link"))


def test_map_and_send_many_return_results_in_order(site):
    results = tasks.ordered.map(range(1200))
    assert [result.get(timeout=30) for result in results] == list(range(1200))
    mixed = tasks.app.send_many([tasks.add.s(1, 2), tasks.renamed.s(), tasks.add.s(3, 4)])
    assert [result.get(timeout=10) for result in mixed] == [3, "renamed", 7]


def test_a_task_is_sent_by_name_and_by_a_former_name(site):
    assert tasks.app.send_task("semantics_tasks.add", (3, 4)).get(timeout=10) == 7
    assert tasks.app.send_task("old_name").get(timeout=10) == "renamed"


def test_a_shared_task_runs_in_the_worker_of_the_app(site):
    assert tasks.shared.delay().get(timeout=10) == "shared"


def test_arguments_arrive_as_the_types_they_are_annotated_with(site):
    parcel = tasks.Parcel(date(2024, 2, 29), Decimal("9.90"))
    result = tasks.typed.delay(parcel, timedelta(minutes=5), {"a", "b"}, b"\x00\xff")
    assert result.get(timeout=10) == tasks.Parcel(date(2024, 2, 29), Decimal("19.80"))
    assert ["Parcel", "timedelta", "set", "bytes"] in site.ledger("typed")


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_every_serializer_carries_arguments_and_result(site, serializer):
    assert tasks.add.apply_async((2, 3), serializer=serializer).get(timeout=10) == 5


@pytest.mark.needs("finds")
def test_what_cannot_be_carried_is_an_error_at_the_call_and_nothing_is_sent(site):
    with pytest.raises(SerializationError, match="Unfit"):
        tasks.tell.apply_async((tasks.Unfit(),), task_id="unfit")
    assert site.broker(lambda transport: transport.find("unfit")) is None


def test_wrong_arguments_are_an_error_at_the_call(site):
    with pytest.raises(TypeError, match="add"):
        tasks.add.delay(1)
    with pytest.raises(TypeError, match="countdown"):
        tasks.add.apply_async((1, 2), count_down=3)


def test_an_async_task_runs_and_its_limit_comes_at_its_await(site):
    assert tasks.gentle.delay(0.01).get(timeout=10) == "slept"
    from_limit = tasks.gentle.apply_async((60,), soft_time_limit=0.2)
    with pytest.raises(tasks.SoftTimeLimitExceeded):
        from_limit.get(timeout=10)


@pytest.mark.needs("finds")
def test_a_second_send_of_an_id_that_is_alive_is_dropped(site):
    first = tasks.wait_at.apply_async(("twice",), task_id="twice")
    site.wait_start(first)
    tasks.wait_at.apply_async(("twice",), task_id="twice")
    site.open("twice")
    assert first.get(timeout=10) == "twice"
    site.wait_gone(first)
    assert len(site.starts(first)) == 1
