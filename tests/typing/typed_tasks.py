"""Checked by mypy, not run: what is typed about tasks. A ``type: ignore`` that is not needed is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

from engine import AsyncResult, EagerResult, Engine, Signature, Task, current_app, current_task, shared_task

app = Engine("typed", broker="memory://", acks_late=True)


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(queue="slow", time_limit="5m", autoretry_for=(OSError,))
def named(name: str) -> str:
    return name


@app.task(bind=True, max_retries=5)
def bound(self: Task[..., Any], x: int) -> float:
    self.update_state("HALF", meta={"x": x})
    if x:
        raise self.retry(countdown=3)
    assert_type(self.request.retries, int)
    return 1.5


@shared_task
def shared(x: int) -> list[int]:
    return [x]


@shared_task(bind=True)
def shared_bound(self: Task[..., Any], x: int) -> None:
    return None


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(bind=True)
async def fetch_bound(self: Task[..., Any], url: str) -> bytes:
    return url.encode()


@app.task(bind=True)
def keywords(self: Task[..., Any], /, x: int, **others: str) -> int:
    return x


@shared_task(bind=True)
async def async_keywords(self: Task[..., Any], /, **others: str) -> int:
    return 1


assert_type(keywords.delay(1, y="a").get(), int)
assert_type(async_keywords.delay(y="a").get(), int)
assert_type(add(1, 2), int)
assert_type(add.delay(1, 2), AsyncResult[int])
assert_type(add.delay(1, y=2).get(timeout=3), int)
assert_type(add.delay(1).result, Any)
assert_type(add.apply_async((1, 2), countdown=5), AsyncResult[int])
assert_type(add.apply((1, 2)), EagerResult[int])
assert_type(add.apply((1, 2)).get(), int)
assert_type(add.map([1, 2]), list[AsyncResult[int]])
assert_type(add.s(1), Signature[int])
assert_type(add.s(1).delay(2).get(), int)
assert_type(add.AsyncResult("id").get(), int)
assert_type(named.delay("a").get(), str)
assert_type(bound.delay(3).get(), float)
assert_type(bound(3), float)
assert_type(shared.delay(3).get(), list[int])
assert_type(fetch.delay("u").get(), bytes)
assert_type(fetch_bound.delay("u").get(), bytes)
assert_type(app.send_task("elsewhere"), AsyncResult[Any])
assert_type(add.max_retries, int | None)
assert_type(bool(current_task), bool)
assert_type(current_app, Engine)
assert_type(add.apply_async((1,), retry_policy={"max_retries": None, "interval_step": 0.5}), AsyncResult[int])


class Report(Task[[str], bytes]):
    name = "report"

    def run(self, day: str) -> bytes:
        return day.encode()


report = app.register_task(Report)
assert_type(report, Report)
assert_type(app.register_task(Report()).delay("monday").get(), bytes)
app.revoke("id", terminate=True)
app.revoke(["id", "other"])


def around(call: Callable[[], Any]) -> Any:
    return call()


app.around = around


async def awaited() -> None:
    assert_type(await fetch("u"), bytes)


add.delay("1")  # type: ignore[arg-type]
add.delay(1, 2, 3)  # type: ignore[call-arg]
add.delay(1, z=2)  # type: ignore[call-arg]
add.delay()  # type: ignore[call-arg]
add("1")  # type: ignore[arg-type]
bound.delay("x")  # type: ignore[arg-type]
bound.delay(add, 1)  # type: ignore[arg-type, call-arg]
shared_bound.delay()  # type: ignore[call-arg]
fetch.delay(3)  # type: ignore[arg-type]
add.delay_on_commit("1")  # type: ignore[arg-type]
add.apply_async_on_commit((1,), usin="default")  # type: ignore[call-arg]
add.dealy(1)  # type: ignore[attr-defined]
add.apply_async((1,), cuntdown=5)  # type: ignore[call-arg]
add.apply_async((1,), countdown=object())  # type: ignore[arg-type]
app.task(max_retry=3)  # type: ignore[call-overload]
app.task(max_retries="3")  # type: ignore[call-overload]
Engine("x", ack_late=True)  # type: ignore[call-arg]
number: int = named.delay("a").get()  # type: ignore[assignment]
add.apply_async((1,), retry_policy={"max_retires": 5})  # type: ignore[arg-type]
app.control.revoke("id")  # type: ignore[attr-defined]
add.delay(1).get(interval=0.5)  # type: ignore[arg-type]
add.delay(1).revoke(signal="SIGKILL")  # type: ignore[arg-type]
app.revoke("id", signal="SIGKILL")  # type: ignore[arg-type]
bound.update_state(state="HALF", task_id="id")  # type: ignore[arg-type]
report.delay(3)  # type: ignore[arg-type]
app.register_task(print)  # type: ignore[arg-type]
current_app.nothing_like_it()  # type: ignore[attr-defined]
