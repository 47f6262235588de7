"""From a call to its message."""

from __future__ import annotations

import os
import socket
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from app_fakes import Bench

from engine import BrokerFull, BrokerUnavailable, ConfigError, Engine, SerializationError
from engine.contract import Batch, Message


def test_a_plain_call_carries_only_what_it_must(bench: Bench) -> None:
    @bench.app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    now = time.time()
    result = add.delay(1, y=2)
    [envelope] = bench.transport.envelopes
    assert (envelope.id, envelope.queue, envelope.priority, envelope.due) == (result.id, "default", 0, None)
    message = Message.decode(envelope.body)
    assert message.task == "add"
    assert bytes(message.args) == b"[1]"
    assert bytes(message.kwargs) == b'{"y":2}'
    assert message.sent == pytest.approx(now, abs=2)
    assert message.origin == f"{os.getpid()}@{socket.gethostname()}"
    assert b"eta" not in envelope.body
    assert uuid.UUID(result.id).version == 7


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        (1, None, r"add.apply_async: args must be a list or a tuple: write \(1,\)"),
        ("abc", None, r"add.apply_async: args must be a list or a tuple: write \('abc',\)"),
        ((1,), [2], "add.apply_async: kwargs must be a dict, not list"),
    ],
)
def test_arguments_that_are_no_list(bench: Bench, args: Any, kwargs: Any, said: str) -> None:
    add = bench.app.task(name="add", typing=False)(lambda *numbers: sum(numbers))
    with pytest.raises(TypeError, match=said):
        add.apply_async(args, kwargs)
    add.apply_async(iter([1, 2]))
    assert bytes(Message.decode(bench.transport.envelopes[0].body).args) == b"[1,2]"


def test_all_options_of_a_call(bench: Bench) -> None:
    @bench.app.task
    def add(x: int, y: int) -> int:
        return x + y

    now = time.time()
    add.apply_async(
        [1, 2],
        countdown="1m",
        expires=timedelta(minutes=5),
        queue="slow",
        priority=9,
        task_id="my-id",
        time_limit="2m",
        soft_time_limit=30,
        max_retries=None,
        ignore_result=True,
        serializer="msgpack",
        headers={"tenant": "a"},
        shadow="shown",
    )
    [envelope] = bench.transport.envelopes
    message = Message.decode(envelope.body)
    assert (envelope.id, envelope.queue, envelope.priority) == ("my-id", "slow", 9)
    assert envelope.due == message.eta == pytest.approx(now + 60, abs=2)
    assert message.expires == pytest.approx(now + 300, abs=2)
    assert (message.time_limit, message.soft_time_limit, message.max_retries) == (120.0, 30.0, None)
    assert (message.ignore_result, message.serializer, message.shadow) == (True, "msgpack", "shown")
    assert message.headers == {"tenant": "a"}
    assert b'"max_retries":null' in envelope.body


@pytest.mark.parametrize(
    ("option", "nearest"), [("cuntdown", "countdown"), ("queu", "queue"), ("taskid", "task_id"), ("expire", "expires")]
)
def test_an_unknown_option_names_the_nearest(bench: Bench, option: str, nearest: str) -> None:
    @bench.app.task
    def one() -> None:
        return None

    with pytest.raises(TypeError, match=f'unknown option "{option}", did you mean "{nearest}"'):
        one.apply_async(**{option: 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="did you mean"):
        bench.app.send_task("x", **{option: 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="did you mean"):
        one.s().set(**{option: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 10},
        {"priority": -1},
        {"priority": True},
        {"time_limit": 0},
        {"time_limit": 5, "soft_time_limit": 5},
        {"countdown": "soon"},
        {"task_id": ""},
        {"task_id": "x" * 256},
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"countdown": float("inf")},
        {"expires": float("nan")},
        {"queue": ""},
        {"queue": 5},
        {"shadow": b"bytes"},
        {"serializer": 1},
        {"ignore_result": 1},
        {"headers": ["a"]},
        {"eta": 5},
    ],
)
def test_values_that_do_not_fit(bench: Bench, options: dict[str, Any]) -> None:
    @bench.app.task
    def one() -> None:
        return None

    with pytest.raises((ValueError, TypeError), match=r"."):
        one.apply_async(**options)
    assert bench.transport.envelopes == []
    with pytest.raises((ValueError, TypeError), match=r"."):
        one.apply_async(link=one.s().set(**options))
    assert bench.transport.envelopes == []


def test_values_at_the_edge_of_what_fits(bench: Bench) -> None:
    @bench.app.task
    def one() -> None:
        return None

    for options in ({"priority": 0}, {"priority": 9}, {"task_id": "x"}, {"task_id": "x" * 255}, {"max_retries": 0}):
        one.apply_async(**options)  # type: ignore[arg-type]
        envelope = bench.transport.envelopes[-1]
        message = Message.decode(envelope.body)
        [(name, value)] = options.items()
        assert getattr(message, {"task_id": "id"}.get(name, name)) == value
        assert (envelope.id, envelope.priority) == (message.id, message.priority or 0)


def test_eta(bench: Bench) -> None:
    @bench.app.task
    def one() -> None:
        return None

    def due(**options: Any) -> float | None:
        one.apply_async(**options)
        return bench.transport.take().eta

    moment = datetime(2040, 1, 1, tzinfo=UTC)
    assert due(eta=moment) == moment.timestamp()
    assert due(eta=moment.replace(tzinfo=None)) == moment.timestamp(), "naive is UTC"
    assert due(eta=moment.astimezone(timezone(timedelta(hours=5)))) == moment.timestamp()
    assert due(eta=moment, countdown=5) == pytest.approx(time.time() + 5, abs=2), "countdown beats eta"
    assert due(eta=datetime(2000, 1, 1)) == pytest.approx(time.time(), abs=2), "the past is now"
    assert due(countdown=-3) == pytest.approx(time.time(), abs=2)
    with pytest.raises(TypeError, match="use countdown"):
        one.apply_async(eta=5)  # type: ignore[arg-type]


def test_expires_counts_from_the_call(bench: Bench) -> None:
    @bench.app.task(expires="10m")
    def one() -> None:
        return None

    one.apply_async(countdown=600, expires=1200)
    message = bench.transport.take()
    assert message.eta is not None
    assert message.expires is not None
    assert message.expires - message.eta == pytest.approx(600)
    one.delay()
    assert bench.transport.take().expires == pytest.approx(time.time() + 600, abs=2)
    one.apply_async(expires=datetime(2040, 1, 1, tzinfo=UTC))
    assert bench.transport.take().expires == datetime(2040, 1, 1, tzinfo=UTC).timestamp()


def test_wrong_arguments_are_refused_in_the_caller(bench: Bench) -> None:
    @bench.app.task(name="add")
    def add(x: int, y: int = 0, *, z: int) -> int:
        return x + y + z

    @bench.app.task(bind=True)
    def bound(self: Any, x: int) -> int:
        return x

    @bench.app.task(typing=False)
    def anything(x: int) -> int:
        return x

    wrong: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        (add, (), {}),
        (add, (1,), {}),
        (add, (1, 2, 3), {"z": 1}),
        (add, (1,), {"x": 1, "z": 1}),
        (add, (1,), {"z": 1, "w": 1}),
        (bound, (), {}),
        (bound, (1, 2), {}),
    ]
    for task, args, kwargs in wrong:
        with pytest.raises(TypeError, match=r"argument"):
            task.apply_async(args, kwargs)
        with pytest.raises(TypeError, match=r"argument"):
            task.apply(args, kwargs)
        with pytest.raises(TypeError, match=r"argument"):
            bench.app.send_many([task.s(*args, **kwargs)])
    assert bench.transport.envelopes == []
    add.delay(1, z=2)
    bound.delay(x=1)
    anything.delay(1, 2, 3)  # type: ignore[call-arg]
    assert len(bench.transport.envelopes) == 3


class User:
    """Nothing that a codec carries."""


@dataclass
class Order:
    user: User


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((User(),), {}, ["argument 'user'", "test_app_calls.User", "Pass an id"]),
        ((1,), {"extra": {"deep": [User()]}}, ["argument 'extra'", "builtins.dict", "a User inside of a dict"]),
        ((Order(User()),), {}, ["argument 'user'", "Order", "User"]),
        ((float("nan"),), {}, ["argument 'user'", "nan"]),
        (("\ud800",), {}, ["argument 'user'", "surrogates"]),
        (({(1, 2): 3},), {}, ["argument 'user'", "keys"]),
    ],
)
def test_what_cannot_be_carried_is_named(bench: Bench, args: Any, kwargs: Any, words: list[str]) -> None:
    @bench.app.task
    def greet(user: Any, extra: Any = None) -> None:
        return None

    with pytest.raises(SerializationError) as caught:
        greet.apply_async(args, kwargs)
    for word in words:
        assert word in str(caught.value)
    assert bench.transport.envelopes == []


def test_arguments_that_hold_themselves(bench: Bench) -> None:
    @bench.app.task
    def one(x: Any) -> None:
        return None

    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(SerializationError, match="holds itself"):
        one.delay(endless)


def test_a_message_that_is_too_large(bench: Bench) -> None:
    @bench.app.task
    def one(x: str) -> None:
        return None

    with pytest.raises(SerializationError, match="max_message allows 16,777,216"):
        one.delay("x" * 17_000_000)


def test_headers_that_cannot_be_carried(bench: Bench) -> None:
    @bench.app.task
    def one() -> None:
        return None

    with pytest.raises(SerializationError, match="headers"):
        one.apply_async(headers={"user": User()})
    with pytest.raises(TypeError, match="headers must be a dict"):
        one.apply_async(headers=[1])  # type: ignore[arg-type]


def test_send_task_needs_no_registration(bench: Bench) -> None:
    result = bench.app.send_task("elsewhere.job", (1, 2), {"z": 3}, queue="far")
    message = bench.transport.take()
    assert (message.task, message.id, message.queue) == ("elsewhere.job", result.id, "far")
    assert result == result.id


def test_map_and_send_many_take_few_round_trips(bench: Bench) -> None:
    @bench.app.task
    def square(x: int) -> int:
        return x * x

    results = square.map(range(1200))
    assert len(results) == 1200
    assert len(bench.transport.batches) == 3
    bench.run_all()
    assert [result.get(timeout=0) for result in results[:4]] == [0, 1, 4, 9]
    mixed = bench.app.send_many([square.s(2), bench.app.signature("elsewhere", (1,), queue="far"), square.s(x=3)])
    assert [e.id for e in bench.transport.envelopes] == [result.id for result in mixed]
    assert [e.queue for e in bench.transport.envelopes] == ["default", "far", "default"]


def test_signatures(bench: Bench) -> None:
    @bench.app.task
    def sub(x: int, y: int) -> int:
        return x - y

    partial = sub.s(1)
    assert partial(y=3) == -2
    assert partial.delay(5).id == bench.transport.envelopes[0].id
    assert bytes(bench.transport.take().args) == b"[5,1]", "new arguments go first"
    immutable = sub.si(1, 2).set(queue="slow", countdown=5)
    immutable.delay(9)
    message = bench.transport.take()
    assert bytes(message.args) == b"[1,2]"
    assert message.queue == "slow"
    assert sub.s(1) == sub.s(1)
    assert sub.s(1) != sub.si(1)
    assert sub.signature((1,), immutable=True, queue="slow") == sub.si(1).set(queue="slow")
    assert bench.app.signature(sub.name, (1,), immutable=True) == sub.si(1)
    assert repr(sub.s(1, y=2)).endswith("sub(1, y=2)")
    assert sub.s(5).apply(kwargs={"y": 1}).get() == 4


def test_links_must_be_signatures(bench: Bench) -> None:
    @bench.app.task
    def one(x: Any = None) -> None:
        return None

    with pytest.raises(TypeError, match="a signature"):
        one.apply_async(link=one)
    with pytest.raises(SerializationError, match="link"):
        one.apply_async(link=one.si(User()))


def test_sends_are_tried_again_under_one_number(bench: Bench) -> None:
    @bench.app.task
    def one() -> None:
        return None

    bench.transport.failures = [BrokerUnavailable("gone"), BrokerFull("full")]
    one.apply_async(retry_policy={"interval_step": 0.01})
    assert len(bench.transport.envelopes) == 1
    numbers = [batch.number for batch in bench.transport.batches if isinstance(batch, Batch)]
    assert numbers == [1, 1, 1]
    one.delay()
    assert bench.transport.batches[-1] == Batch(bench.transport.batches[0].producer, 2)  # type: ignore[union-attr]


def test_a_send_that_keeps_failing_says_so(bench: Bench) -> None:
    @bench.app.task
    def one() -> None:
        return None

    bench.transport.failures = [BrokerUnavailable("gone")] * 9
    with pytest.raises(BrokerUnavailable, match=r"gone.*tried 3 times"):
        one.apply_async(retry_policy={"interval_step": 0.01})
    assert len(bench.transport.failures) == 6
    with pytest.raises(BrokerUnavailable, match="gone"):
        one.apply_async(retry=False)
    assert len(bench.transport.failures) == 5


@pytest.mark.parametrize(
    ("policy", "error", "text"),
    [
        ({"max_retires": 5}, TypeError, 'unknown option "max_retires", did you mean "max_retries"'),
        ({"max_retries": -1}, ValueError, "max_retries -1 is not a whole number of at least 0"),
        ({"max_retries": 1.5}, ValueError, "max_retries 1.5"),
        ({"interval_step": "0.2"}, ValueError, "interval_step '0.2' is not a number"),
        ({"interval_max": float("inf")}, ValueError, "interval_max"),
    ],
)
def test_a_retry_policy_that_does_not_fit_is_an_error_at_the_call(
    bench: Bench, policy: Any, error: type[Exception], text: str
) -> None:
    @bench.app.task
    def one() -> None:
        return None

    with pytest.raises(error, match=text):
        one.apply_async(retry_policy=policy)
    assert bench.transport.envelopes == []


def test_none_in_a_retry_policy_is_the_default_and_not_for_ever(bench: Bench) -> None:
    @bench.app.task
    def one() -> None:
        return None

    bench.transport.failures = [BrokerUnavailable("gone")] * 9
    with pytest.raises(BrokerUnavailable, match="tried 3 times"):
        one.apply_async(retry_policy={"max_retries": None, "interval_step": 0.0, "interval_max": None})


def test_without_a_broker(bench: Bench) -> None:
    app = Engine("nowhere")

    @app.task
    def one() -> None:
        return None

    with pytest.raises(ConfigError, match=r"no broker.*ENGINE_CONFIG.*ENGINE_BROKER_URL"):
        one.delay()
    with pytest.raises(ConfigError, match="no result backend"):
        app.AsyncResult("x").get()


def test_numbers_survive(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.app.task
    def keep(x: Any) -> None:
        seen.append(x)

    values: list[Any] = [2**70, -(2**63), 1.5, True, None, "\x00ünï", [], {}]
    for value in values:
        keep.delay(value)
    bench.run_all()
    assert seen == values
