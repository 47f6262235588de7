"""Pydantic models as arguments and results."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
import pytest
from app_fakes import Bench

from engine import RemoteError, SerializationError, states
from engine.app import failures
from engine.contract.results import FAILURE, Body

pydantic = pytest.importorskip("pydantic")

T = TypeVar("T")


class Line(pydantic.BaseModel):
    sku: str
    count: int = pydantic.Field(gt=0)


class Order(pydantic.BaseModel):
    id: int
    lines: list[Line] = pydantic.Field(default_factory=list)
    at: datetime | None = None
    note: str = pydantic.Field(default="", alias="theNote")

    @pydantic.computed_field
    def total(self) -> int:
        return sum(line.count for line in self.lines)


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)
    at: datetime
    other: str = pydantic.Field(default="", validation_alias="read", serialization_alias="written")
    data: bytes = b""


class Box(pydantic.BaseModel, Generic[T]):
    item: T


class Ids(pydantic.RootModel[list[int]]):
    pass


ORDER = Order(id=1, lines=[Line(sku="a", count=2)], at=datetime(2030, 1, 1), theNote="fragile")


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_model_arrives_and_comes_back_as_the_model(bench: Bench, serializer: str) -> None:
    @bench.app.task(serializer=serializer)
    def work(order: Order, lines: list[Line], by: dict[str, Line], ids: Ids | None = None) -> Order:
        assert isinstance(order, Order)
        assert all(isinstance(line, Line) for line in [*lines, *by.values()])
        assert isinstance(ids, Ids)
        return order

    line = Line(sku="b", count=1)
    assert work.apply((ORDER, [line], {"x": line}), {"ids": Ids([1, 2])}).get() == ORDER


def test_a_strict_model_with_two_aliases_is_the_same_again(bench: Bench) -> None:
    @bench.app.task
    def work(given: Strict) -> Strict:
        return given

    given = Strict(at=datetime(2030, 1, 1), read="x", data=b"raw")
    assert work.apply((given,)).get() == given
    assert work.apply(({"at": "2030-01-01T00:00:00", "read": "x", "data": "raw"},)).get() == given


def test_a_generic_model(bench: Bench) -> None:
    @bench.app.task
    def work(box: Box[Line]) -> int:
        return box.item.count

    assert work.apply((Box[Line](item=Line(sku="a", count=3)),)).get() == 3


def test_plain_data_is_validated_in_the_worker(bench: Bench) -> None:
    @bench.app.task
    def work(order: Order) -> list[Any]:
        return [order.id, order.lines[0].count, order.note]

    data = {"id": "5", "lines": [{"sku": "a", "count": "3"}], "theNote": "by alias"}
    assert work.apply((data,)).get() == [5, 3, "by alias"]
    assert work.apply(({**data, "note": "by name"},)).state == states.SUCCESS


def test_without_an_annotation_it_is_plain_data(bench: Bench) -> None:
    @bench.app.task
    def work(order: Any) -> Any:
        return order

    assert work.apply((Line(sku="a", count=1),)).get() == {"sku": "a", "count": 1}


def test_what_does_not_validate_fails_and_is_never_retried(bench: Bench) -> None:
    runs: list[int] = []

    @bench.app.task(autoretry_for=(Exception,), max_retries=5)
    def work(order: Order) -> None:
        runs.append(order.id)

    result = work.apply(({"id": "x"},))
    assert result.state == states.FAILURE
    with pytest.raises(pydantic.ValidationError, match="id") as caught:
        result.get()
    assert "in argument 'order'" in caught.value.__notes__
    assert (runs, result.retries) == ([], 0)


def test_the_error_reaches_the_client_with_its_text() -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        Line(sku="a", count=0)
    body = Body(FAILURE, "t", 1.0, msgspec.UNSET, "json", failures.describe(caught.value))
    error = failures.rebuild(body)
    assert isinstance(error, RemoteError | pydantic.ValidationError)
    assert "greater than 0" in str(error)


def test_pickled_data_that_json_does_not_carry_is_no_model(bench: Bench) -> None:
    bench.app.settings.worker.accept.append("pickle")

    @bench.app.task(serializer="pickle")
    def work(line: Line) -> int:
        return line.count

    assert work.apply((Line(sku="a", count=1),)).get() == 1
    with pytest.raises(ValueError, match="what JSON carries"):
        work.apply(({"sku": {1 + 2j}, "count": 1},)).get()


def test_a_model_with_a_number_that_json_does_not_have_is_refused(bench: Bench) -> None:
    class Reading(pydantic.BaseModel):
        value: float
        at: datetime | None = None

    @bench.app.task
    def work(readings: Any) -> Any:
        return readings

    assert work.apply(([Reading(value=1.5)],)).get() == [{"value": 1.5, "at": None}]
    for value in (float("nan"), float("inf")):
        with pytest.raises(SerializationError, match="JSON has no nan and no infinity"):
            work.delay([Reading(value=value)])
