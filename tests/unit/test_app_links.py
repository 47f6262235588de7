"""What follows from a task's end, and who sent whom."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from app_fakes import Bench

from engine import AsyncResult, SerializationError, states
from engine.app import links
from engine.contract import Body, Message


def test_links(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.app.task
    def double(x: int) -> int:
        if x < 0:
            raise ValueError(x)
        return 2 * x

    @bench.app.task
    def note(*args: Any) -> None:
        seen.append(args)

    call = double.s(2)
    call.link(note.s("after"), note.si("alone"))
    call.link_error(note.s("failed"))
    linked = call.delay()
    bench.run_all()
    assert seen == [(4, "after"), ("alone",)]
    assert [child.get(timeout=0) for child in linked.children] == [None, None], "what was linked is a child of it"
    seen.clear()
    failing = double.apply_async((-1,), link=note.s(), link_error=[note.s("failed")])
    outcomes = bench.run_all()
    assert seen == [(failing.id, "failed")]
    assert [outcome.state for outcome in outcomes] == [states.FAILURE, states.SUCCESS]


def test_arguments_that_a_linked_task_would_not_take_are_an_error_at_the_call(bench: Bench) -> None:
    @bench.app.task
    def work() -> None:
        return None

    @bench.app.task
    def on_error(request: Any, exc: Any, traceback: Any) -> None:
        """As Celery calls it."""

    @bench.app.task
    def note(value: Any, *, more: int = 0) -> None:
        return None

    @bench.app.task(typing=False)
    def unchecked() -> None:
        return None

    with pytest.raises(TypeError, match=r"argument: 'exc': .* the failed task's id, before"):
        work.apply_async(link_error=on_error.s())
    with pytest.raises(TypeError, match=r"work: too many positional arguments: .*\.si\(\.\.\.\) gets its own only"):
        work.apply_async(link=[note.s(), work.s()])
    with pytest.raises(TypeError, match="'value': as a link it gets its own arguments only"):
        work.apply_async(link=note.si())
    with pytest.raises(TypeError, match="unexpected keyword argument 'mor'"):
        work.apply_async(link=note.s(mor=1))
    with pytest.raises(TypeError, match="too many positional"):
        work.apply_async(link=note.s().link(work.s()))  # a link of a link
    work.apply_async(link=[note.s(more=1), work.si(), unchecked.s(), bench.app.signature("elsewhere", (1, 2))])


def test_countdown_and_expires_of_a_link_count_from_the_end_before_it(bench: Bench) -> None:
    @bench.app.task
    def one() -> int:
        return 1

    link = one.si().set(countdown=60, expires=600)
    one.apply_async(countdown=3600, link=link)
    (envelope,) = bench.run().publishes
    assert envelope.due == pytest.approx(time.time() + 60, abs=30)
    assert envelope.expires == pytest.approx(time.time() + 600, abs=30)


def test_a_link_has_the_options_of_its_task(bench: Bench) -> None:
    @bench.app.task(name="slow", queue="slow", priority=7, serializer="msgpack", aliases=["was.slow"])
    def slow(x: int) -> int:
        return x

    for link in (slow.s(), bench.app.signature("was.slow"), slow.s().set(queue="slow")):
        slow.apply_async((1,), link=link)
        (envelope,) = bench.run().publishes
        assert (envelope.queue, envelope.priority) == ("slow", 7)
        assert Message.decode(envelope.body).serializer == "msgpack"
        bench.transport.take()
    slow.apply_async((1,), link=slow.s().set(queue="fast", priority=1, serializer="json"))
    (envelope,) = bench.run().publishes
    assert (envelope.queue, envelope.priority) == ("fast", 1)


def test_moments_of_a_link_are_moments(bench: Bench) -> None:
    moment = datetime(2040, 1, 1, tzinfo=UTC)

    @bench.app.task(expires="1h")
    def one() -> int:
        return 1

    one.apply_async(link=one.si().set(eta=moment, expires=moment + timedelta(days=1)))
    (envelope,) = bench.run().publishes
    assert envelope.due == moment.timestamp()
    assert envelope.expires == moment.timestamp() + 86400
    bench.transport.take()
    one.apply_async(link=one.si().set(eta=moment, countdown=60))
    (envelope,) = bench.run().publishes
    assert envelope.due == pytest.approx(time.time() + 60, abs=30), "countdown beats eta"
    assert envelope.expires == pytest.approx(time.time() + 3600, abs=30), "the task's own"


@pytest.mark.parametrize("serializer", ["yaml", "msgpack"])
def test_a_link_that_its_serializer_cannot_carry_goes_as_json_to_the_handler_of_a_failure(serializer: str) -> None:
    # "yaml": the dispatcher knows no codecs of plugins. msgpack: has no numbers of this size.
    link = {"task": "note", "id": "n", "args": [2**70], "serializer": serializer}
    (envelope,) = links.after_failure(Message(version=1, id="m", task="t", sent=1.0, link_error=[link]))
    sent = Message.decode(envelope.body)
    assert (sent.serializer, bytes(sent.args)) == ("json", b'["m",%d]' % 2**70)


def test_a_link_whose_serializer_nobody_knows_goes_as_json_after_a_success() -> None:
    link = {"task": "note", "id": "n", "serializer": "yaml"}
    message = Message(version=1, id="m", task="t", sent=1.0, link=[link])
    (envelope,) = links.after_success(message, {"a": 1})
    sent = Message.decode(envelope.body)
    assert (sent.serializer, bytes(sent.args)) == ("json", b'[{"a":1}]')
    with pytest.raises(SerializationError):
        links.after_success(message, object())


@pytest.mark.parametrize(
    "broken", [{"id": ""}, {"id": "é" * 128}, {"priority": 10}, {"priority": "9"}, {"args": {}}, {"task": None}]
)
def test_a_link_that_cannot_be_sent_is_left_out(broken: dict[str, Any]) -> None:
    good = {"task": "note", "id": "n"}
    message = Message(version=1, id="m", task="t", sent=1.0, link_error=[{**good, **broken}, good])
    assert [envelope.id for envelope in links.after_failure(message)] == ["n"]


def test_links_know_their_parent_and_the_root_of_all(bench: Bench) -> None:
    @bench.app.task
    def one() -> int:
        return 1

    first = one.apply_async(link=one.si().link(one.si()))
    (second,) = bench.run().publishes
    (third,) = bench.run().publishes
    told = [Message.decode(envelope.body) for envelope in (second, third)]
    assert [message.parent for message in told] == [first.id, second.id]
    assert [message.root for message in told] == [first.id, first.id]


def test_a_second_run_publishes_the_same_links(bench: Bench) -> None:
    @bench.app.task
    def one() -> int:
        return 1

    one.apply_async(link=one.si())
    envelope = bench.transport.envelopes[0]
    first = bench.run()
    bench.transport.envelopes = [envelope]
    second = bench.run()
    assert [e.id for e in first.publishes] == [e.id for e in second.publishes]


def test_children_and_parents(bench: Bench) -> None:
    @bench.app.task(bind=True)
    def tree(self: Any, depth: int) -> str | None:
        return tree.delay(depth - 1).id if depth else None

    root = tree.delay(2)
    bench.run_all()
    assert [child.id for child in root.children] == [root.get(timeout=0)]
    leaf = root.children[0].children[0]
    record = bench.results.records[leaf.id]
    found = msgspec.json.decode(record.body, type=Body)
    assert (found.root, found.parent) == (root.id, root.children[0].id)


def test_what_ran_eagerly_inside_is_no_child(bench: Bench) -> None:
    @bench.app.task
    def inner() -> int:
        return 1

    @bench.app.task
    def outer() -> int:
        return inner.apply().get()

    result = outer.delay()
    bench.run()
    assert result.get(timeout=0) == 1
    assert result.children == []


def test_an_async_result_of_the_current_app(bench: Bench) -> None:
    assert AsyncResult[int]("x").app is bench.app
