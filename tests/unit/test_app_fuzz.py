"""Whatever comes out of a queue, a run has an outcome; whatever JSON carries, comes back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from app_fakes import FakeRun
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import Engine
from engine.app import codecs, registry
from engine.app.execute import execute
from engine.app.wire import Outcome, decode, encode
from engine.contract import Message
from engine.errors import MessageError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FEW = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Point:
    x: int
    when: datetime | None = None


with registry.isolated():
    APP = Engine("fuzz")


@APP.task(bind=True, name="fuzzed")
def fuzzed(
    self: Any, /, a: int, b: Point | None = None, *rest: datetime, c: set[int] | None = None, **others: Any
) -> Any:
    return [a, b, rest, c, others]


@FEW
@given(JSON, JSON)
def test_any_arguments_have_an_outcome(args: Any, kwargs: Any) -> None:
    message = Message(
        version=1,
        id="x",
        task="fuzzed",
        sent=1.0,
        args=msgspec.Raw(codecs.encode(codecs.JSON, args)),
        kwargs=msgspec.Raw(codecs.encode(codecs.JSON, kwargs)),
    )
    outcome = execute(APP, fuzzed, message, FakeRun())
    assert isinstance(outcome, Outcome)
    assert outcome.state in ("SUCCESS", "FAILURE")
    assert decode(encode(outcome)).id == "x"


@FEW
@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_a_message_or_a_message_error(data: bytes) -> None:
    try:
        message = Message.decode(data)
    except MessageError:
        return
    assert isinstance(execute(APP, fuzzed, message, FakeRun()), Outcome)


@FEW
@given(st.dictionaries(st.sampled_from(list(Message.__struct_fields__)), JSON), JSON)
def test_any_header_is_a_message_or_a_message_error(fields: dict[str, Any], args: Any) -> None:
    whole = {"v": 1, "id": "x", "task": "fuzzed", "sent": 1.0, "args": args, **fields}
    try:
        message = Message.decode(msgspec.json.encode(whole))
    except MessageError:
        return
    assert isinstance(execute(APP, fuzzed, message, FakeRun()), Outcome)


@FEW
@given(JSON)
def test_what_json_carries_comes_back(value: Any) -> None:
    assert codecs.decode(codecs.JSON, codecs.encode(codecs.JSON, value)) == value
    packed = codecs.find("pickle")
    assert codecs.decode(packed, codecs.encode(packed, value)) == value
