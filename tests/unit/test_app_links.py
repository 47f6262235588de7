"""What follows from a task's end, and who sent whom."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from app_fakes import Bench

from engine import AsyncResult, states
from engine.contract import Body


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


def test_countdown_and_expires_of_a_link_count_from_the_end_before_it(bench: Bench) -> None:
    @bench.app.task
    def one() -> int:
        return 1

    link = one.si().set(countdown=60, expires=600)
    one.apply_async(countdown=3600, link=link)
    (envelope,) = bench.run().publishes
    assert envelope.due == pytest.approx(time.time() + 60, abs=30)
    assert envelope.expires == pytest.approx(time.time() + 600, abs=30)


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
