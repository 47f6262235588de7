"""Values on their way through the codecs: what is annotated comes back as its type."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union
from uuid import UUID, uuid4

import msgspec
import pytest
from app_fakes import Bench

from engine import ConfigError, SerializationError
from engine.app import codecs
from engine.app.parameters import Parameters, converter_of
from engine.contract import Codec


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Point:
    x: int
    when: datetime


class Size(msgspec.Struct):
    width: int


class Pair(NamedTuple):
    left: int
    right: str


class Plain(str):
    """A subclass of text, as template engines have."""


MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
TYPED: list[tuple[Any, Any]] = [
    (datetime, MOMENT),
    (datetime, MOMENT.replace(tzinfo=None)),
    (date, date(2026, 1, 2)),
    (time, time(3, 4, 5)),
    (timedelta, timedelta(days=1, seconds=2)),
    (UUID, uuid4()),
    (Decimal, Decimal("1.10")),
    (bytes, b"\x00\xff"),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "a")),
    (tuple, (1, 2)),
    (Colour, Colour.RED),
    (Level, Level.LOW),
    (Point, Point(1, MOMENT)),
    (Size, Size(3)),
    (Pair, Pair(1, "a")),
    (Optional[datetime], MOMENT),  # noqa: UP045 - what users write
    (Union[UUID, None], None),  # noqa: UP007 - what users write
    (datetime | None, MOMENT),
    (list[UUID], [uuid4()]),
    (Sequence[Point], [Point(1, MOMENT)]),
    (dict[int, str], {1: "a"}),
    (dict[str, list[Decimal]], {"a": [Decimal(1)]}),
    (Annotated[datetime, "when"], MOMENT),
    (int, 3),
    (Any, {"a": [1, None, True, 1.5, "text"]}),
    (Literal["a"], "a"),
]


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
@pytest.mark.parametrize(("annotation", "value"), TYPED, ids=[str(a) for a, _ in TYPED])
def test_what_is_annotated_comes_back_as_its_type(bench: Bench, serializer: str, annotation: Any, value: Any) -> None:
    seen: list[Any] = []

    def echo(x: Any, *, y: Any = None) -> Any:
        seen.extend([x, y])
        return x

    echo.__annotations__ = {"x": annotation, "y": annotation, "return": annotation}
    task = bench.app.task(serializer=serializer)(echo)
    result = task.delay(value, y=value)
    bench.run()
    assert result.get(timeout=0) == value
    assert seen == [value, value]
    assert [type(v) for v in seen] == [type(value)] * 2
    assert type(result.get(timeout=0)) is type(value)


@pytest.mark.parametrize(
    "annotation",
    [int, str, dict, list[int], Any, None, str | datetime, Path, "Nowhere", 5, [int], dict[str, Any]],
)
def test_other_annotations_leave_a_value_as_it_came(annotation: Any) -> None:
    assert converter_of(annotation) is None


def test_arguments_of_all_kinds_are_converted() -> None:
    def many(a: UUID, /, b: date, *rest: Decimal, c: set[int], **others: datetime) -> None:
        return None

    some = uuid4()
    args: list[Any] = [str(some), "2026-01-02", "1.5", "2.5"]
    kwargs: dict[str, Any] = {"c": [1], "d": "2026-01-02T03:04:05Z"}
    parameters = Parameters(many, False)
    parameters.check(args, kwargs)
    parameters.convert(args, kwargs)
    assert args == [some, date(2026, 1, 2), Decimal("1.5"), Decimal("2.5")]
    assert kwargs["c"] == {1}
    assert kwargs["d"].year == 2026


@pytest.mark.parametrize(
    ("args", "kwargs", "fits"),
    [
        ((1, 2), {"c": 1}, True),
        ((1,), {"b": 2, "c": 1}, True),
        ((1, 2, 3, 4), {"c": 1, "z": 5}, True),
        ((), {"a": 1, "b": 2, "c": 1}, False),
        ((1, 2), {}, False),
        ((1, 2), {"b": 2, "c": 1}, False),
        ((1,), {"c": 1}, False),
        ((1, 2), {"a": 9, "c": 1}, True),
    ],
)
def test_what_fits_a_signature(args: tuple[Any, ...], kwargs: dict[str, Any], fits: bool) -> None:
    def many(a: int, /, b: int, *rest: int, c: int, **others: int) -> None:
        return None

    parameters = Parameters(many, False)
    if fits:
        parameters.check(args, kwargs)
        many(*args, **kwargs)
    else:
        with pytest.raises(TypeError):
            parameters.check(args, kwargs)
        with pytest.raises(TypeError):
            many(*args, **kwargs)


def test_functions_without_a_signature_are_not_checked() -> None:
    Parameters(min, False).check((1, 2, 3, 4, 5), {})
    Parameters(print, False).check((1,), {"sep": ""})


def test_a_value_that_does_not_fit_its_type_is_a_dead_letter(bench: Bench) -> None:
    @bench.app.task
    def when(moment: datetime) -> None:
        return None

    result = when.delay("tomorrow")  # type: ignore[arg-type]
    outcome = bench.run()
    assert type(outcome.settlement).__name__ == "Dead"
    assert result.failed()
    assert "argument 'moment'" in (result.traceback or "")


def test_a_result_that_is_not_what_was_promised_comes_as_it_is(bench: Bench) -> None:
    @bench.app.task
    def promise() -> datetime:
        return "later"  # type: ignore[return-value]

    result = promise.delay()
    bench.run()
    assert result.result == "later"


def test_what_the_codecs_carry_without_annotations(bench: Bench) -> None:
    assert codecs.JSON.decode(codecs.JSON.encode([Plain("a"), Level.LOW, Colour.RED, {1: 2}, (1,)])) == [
        "a",
        1,
        "red",
        {"1": 2},
        [1],
    ]
    packed = codecs.find("msgpack")
    assert packed.decode(packed.encode({1: b"a", "x": math.inf})) == {1: b"a", "x": math.inf}


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], {"a": (-math.inf,)}, Size(math.nan), {"n": None, "x": math.nan}],  # type: ignore[arg-type]
)
def test_json_has_no_nan(value: Any) -> None:
    with pytest.raises(SerializationError, match="no nan"):
        codecs.encode(codecs.JSON, value)
    assert codecs.encode(codecs.JSON, [None, 1.5, {"a": None}])


def test_pickle_only_where_it_is_accepted(bench: Bench) -> None:
    bench.app.settings.worker.accept.append("pickle")
    seen: list[Any] = []

    @bench.app.task(serializer="pickle")
    def keep(x: Any) -> Any:
        seen.append(x)
        return x

    result = keep.delay({(1, 2): Colour.RED})
    bench.run()
    assert seen == [{(1, 2): Colour.RED}]
    assert result.get(timeout=0) == {(1, 2): Colour.RED}
    with pytest.raises(SerializationError, match="pickle cannot carry"):
        keep.delay(lambda: None)
    bench.app.settings.worker.accept.remove("pickle")
    with pytest.raises(SerializationError, match="not accepted here"):
        _ = bench.app.AsyncResult(result.id).result


def test_broken_bytes_are_value_errors() -> None:
    for name in ("json", "msgpack", "pickle"):
        codec = codecs.find(name)
        with pytest.raises(ValueError, match=r"."):
            codec.decode(b"\xc1\xc1")
    with pytest.raises(ValueError, match="base64"):
        codecs.decode(codecs.find("msgpack"), b'"%%%"')
    with pytest.raises(ValueError, match="nested"):
        codecs.decode(codecs.JSON, b"[" * 100_000 + b"]" * 100_000)


def test_codecs_of_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shout(Codec):
        name = "shout"
        is_json = False

        def encode(self, value: object) -> bytes:
            return str(value).upper().encode()

        def decode(self, data: bytes, type: Any = Any) -> Any:
            return data.decode()

    monkeypatch.setattr(codecs, "_codecs", dict(codecs._codecs))
    with pytest.raises(ConfigError, match="no serializer 'shout': there are json, msgpack, pickle"):
        codecs.find("shout")
    codecs.register([Shout()])
    assert codecs.decode(codecs.find("shout"), codecs.encode(codecs.find("shout"), "hi")) == "HI"


class FakeModel:
    """What pydantic's models look like from outside."""

    __pydantic_validator__ = object()

    def __init__(self, name: str) -> None:
        self.name = name

    def model_dump(self, mode: str, by_alias: bool, round_trip: bool) -> dict[str, str]:
        return {"name": self.name}

    @classmethod
    def model_validate_json(cls, data: bytes, by_alias: bool, by_name: bool) -> FakeModel:
        value = json.loads(data)
        if "name" not in value:
            raise ValueError("name: field required")
        return cls(value["name"])


def test_models_are_carried_and_validated(bench: Bench) -> None:
    seen: list[str] = []

    @bench.app.task(autoretry_for=(Exception,))
    def greet(user: FakeModel, others: list[FakeModel]) -> FakeModel:
        seen.extend([user.name, others[0].name])
        return user

    result = greet.delay(FakeModel("a"), [FakeModel("b")])
    bench.run()
    assert seen == ["a", "b"]
    assert result.get(timeout=0).name == "a"
    failing = greet.delay({"nom": "a"}, [])  # type: ignore[arg-type]
    bench.run()
    assert failing.failed(), "never retried"
    assert "field required" in str(failing.result)
