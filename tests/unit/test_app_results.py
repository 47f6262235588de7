"""Results, as the caller sees them."""

from __future__ import annotations

import builtins
import pickle
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from app_fakes import Bench, DictResults, FakeRun

from engine import (
    JoinError,
    Reject,
    RemoteError,
    SoftTimeLimitExceeded,
    TaskError,
    TaskRevokedError,
    TimeLimitExceeded,
    TimeoutError,  # noqa: A004 - what is tested
    TransportError,
    states,
)
from engine.app import commands, ends, failures
from engine.app.settings import Duration
from engine.contract import Body, CannotTell, Capabilities, Failure, Found, Record


@pytest.fixture
def task(bench: Bench) -> Any:
    @bench.app.task(bind=True)
    def work(self: Any, x: int) -> int:
        if x < 0:
            raise ValueError("negative")
        self.update_state("HALF", {"x": x})
        return x

    return work


def test_before_anything_is_known(bench: Bench) -> None:
    result = bench.app.AsyncResult("nobody")
    assert result.state == result.status == states.PENDING
    assert result.result is None
    assert result.info is None
    assert result.traceback is None
    assert result.date_done is None
    assert result.name is None
    assert result.children == []
    assert not result.ready()
    assert not result.successful()
    assert not result.failed()
    assert result.known is False


def test_a_result_is_equal_to_its_id(bench: Bench) -> None:
    result = bench.app.AsyncResult("some-id")
    assert result == "some-id"
    assert result == bench.app.AsyncResult("some-id")
    assert result != "other"
    assert {result: 1}["some-id"] == 1  # type: ignore[index]
    assert str(result) == result.task_id == "some-id"
    assert repr(result) == "<AsyncResult some-id>"


def test_a_success(bench: Bench, task: Any) -> None:
    result = task.delay(5)
    assert result.known is True, "it is in its queue"
    bench.run()
    assert result.known is True
    assert (result.state, result.result, result.ready(), result.successful()) == (states.SUCCESS, 5, True, True)
    assert result.name == task.name
    assert result.worker == "worker-1"
    assert result.retries == 0
    done = result.date_done
    assert done is not None
    assert abs((datetime.now(UTC) - done).total_seconds()) < 5
    bench.results.records.clear()
    assert result.get(timeout=0) == 5, "the end is kept"
    assert result.wait(timeout=0) == 5


def test_a_state_of_its_own(bench: Bench, task: Any) -> None:
    result = task.delay(5)
    run = FakeRun()
    bench.run(run)
    bench.results.records[result.id] = run.emitted[0]
    assert result.state == "HALF"
    assert result.info == {"x": 5}
    assert not result.ready()
    assert result.date_done is None


def test_only_the_result_is_of_the_type_that_the_function_returns(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.app.task(bind=True)
    def when(self: Any) -> datetime:
        self.update_state(state="ASKED", meta="2026-01-31T12:00:00")
        return datetime(2026, 1, 31, 12)

    class Looking(FakeRun):
        """Sees what is written while the task runs."""

        def emit(self, record: Record) -> None:
            bench.results.store([record])
            seen.append(result.result)

    result = when.delay()
    bench.run(Looking())
    assert seen == ["2026-01-31T12:00:00"]
    assert result.get(timeout=0) == datetime(2026, 1, 31, 12)


def test_a_failure(bench: Bench, task: Any) -> None:
    result = task.delay(-1)
    bench.run()
    assert result.failed()
    assert not result.successful()
    with pytest.raises(ValueError, match="negative") as caught:
        result.get(timeout=0)
    assert any("In the worker" in note for note in caught.value.__notes__)
    returned = result.get(timeout=0, propagate=False)
    assert isinstance(returned, ValueError)
    assert isinstance(result.result, ValueError)


def test_get_gives_up_at_its_timeout(bench: Bench) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"has not ended in 0\.05 s"):
        bench.app.AsyncResult("nobody").get(timeout=0.05)
    assert time.monotonic() - started >= 0.05
    assert issubclass(TimeoutError, builtins.TimeoutError)


def test_get_in_a_task_is_refused(bench: Bench, task: Any) -> None:
    @bench.app.task
    def joins(id: str, allow: bool) -> Any:
        return bench.app.AsyncResult(id).get(timeout=0, allow_join=allow)

    done = task.delay(3)
    bench.run()
    refused = joins.delay(done.id, False)
    bench.run()
    with pytest.raises(JoinError, match="allow_join=True"):
        refused.get(timeout=0)
    allowed = joins.delay(done.id, True)
    bench.run()
    assert allowed.get(timeout=0) == 3


def test_an_ignored_result_is_none_at_once(bench: Bench) -> None:
    @bench.app.task(ignore_result=True)
    def silent() -> int:
        return 1

    result = silent.delay()
    assert result.ignored
    assert result.get() is None
    assert not silent.apply_async(ignore_result=False).ignored


def test_forget(bench: Bench, task: Any) -> None:
    result = task.delay(1)
    bench.run()
    assert result.ready()
    result.forget()
    assert bench.results.records == {}
    assert result.state == states.PENDING


def test_revoke(bench: Bench, task: Any) -> None:
    result = task.delay(1)
    result.revoke()
    assert bench.transport.envelopes == []
    assert bench.transport.revoked == [result.id]
    assert result.state == states.REVOKED
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=0)
    bench.app.revoke(["a", "b"], terminate=True)
    assert [commands.decode(data) for data in bench.transport.commands] == [
        commands.Revoke([result.id]),
        commands.Revoke(["a", "b"], terminate=True),
    ]


def test_revoke_where_nothing_records_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(bench.transport), "capabilities", Capabilities())
    with pytest.raises(TransportError, match="does not record revocations"):
        bench.app.AsyncResult("x").revoke()


def test_known_where_nobody_can_tell(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.transport, "find", lambda _: CannotTell())
    assert bench.app.AsyncResult("x").known is None


def failed(failure: Failure) -> Body:
    return Body(state=states.FAILURE, task="t", date=0.0, failure=failure, traceback="Traceback: there")


def test_exceptions_come_back_as_their_own_class() -> None:
    error = failures.rebuild(failed(failures.describe(KeyError("k", 3))))
    assert isinstance(error, KeyError)
    assert error.args == ("k", 3)
    limit = failures.rebuild(failed(failures.describe(TimeLimitExceeded(2.5))))
    assert isinstance(limit, TimeLimitExceeded)
    assert limit.seconds == 2.5


@pytest.mark.parametrize(
    ("module", "kind"),
    [("never.imported", "Error"), ("builtins", "Nothing"), ("builtins", "dict"), ("os", "path"), ("builtins", "")],
)
def test_other_classes_are_remote_errors(module: str, kind: str) -> None:
    error = failures.rebuild(failed(Failure(kind, module, "the text")))
    assert isinstance(error, RemoteError)
    assert str(error) == f"{module}.{kind}: the text"


def test_nothing_is_imported_for_an_exception() -> None:
    before = set(sys.modules)
    failures.rebuild(failed(Failure("Error", "wave", "x")))
    assert set(sys.modules) == before


class Odd(Exception):
    """Takes other arguments than it keeps."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class Picky(Exception):
    """Cannot be made from text."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)


def test_exceptions_with_odd_constructors() -> None:
    error = failures.rebuild(failed(failures.describe(Odd(1, reason="r"))))
    assert isinstance(error, RemoteError)
    assert str(error) == "test_app_results.Odd: 1: r"
    assert isinstance(failures.rebuild(failed(failures.describe(Picky(1, 2)))), RemoteError)
    assert isinstance(failures.rebuild(failed(failures.describe(KeyError(object())))), KeyError)


class OfAnOrder(Exception):
    """Speaks of what it was made from, which no record carries."""

    def __init__(self, order: Any) -> None:
        super().__init__(order)
        self.order = order

    def __str__(self) -> str:
        return f"order {self.order['id']}"


def test_an_exception_that_could_not_be_printed_here_is_a_remote_error_with_its_text() -> None:
    error = failures.rebuild(failed(failures.describe(OfAnOrder({"id": 7}))))
    assert isinstance(error, RemoteError)
    assert str(error).endswith("OfAnOrder: order 7")


@pytest.mark.parametrize("kind", [Duration, float, int])
def test_a_soft_limit_says_its_seconds_wherever_it_was_set(kind: type[float]) -> None:
    error = failures.rebuild(failed(failures.describe(SoftTimeLimitExceeded(kind(2)))))
    assert isinstance(error, SoftTimeLimitExceeded)
    assert (error.seconds, str(error)) == (2.0, "soft time limit of 2 s exceeded")


def test_control_flow_that_ended_a_task_is_an_exception_for_its_caller() -> None:
    given = failures.rebuild(failed(failures.describe(SoftTimeLimitExceeded(2.0))))
    raised = failures.bearable(given)
    assert isinstance(raised, SoftTimeLimitExceeded)
    assert isinstance(raised, TaskError)
    assert str(raised) == "soft time limit of 2 s exceeded"
    assert raised.__notes__ == ["In the worker:\nTraceback: there"]
    assert failures.bearable(raised) is raised
    again = pickle.loads(pickle.dumps(raised))
    assert isinstance(again, SoftTimeLimitExceeded)
    assert isinstance(again, TaskError)
    assert failures.describe(raised) == failures.describe(given)
    rejected = failures.bearable(Reject("no seat"))
    assert isinstance(rejected, Exception)
    assert isinstance(rejected, Reject)
    assert str(rejected) == "no seat"


class Hostile(Exception):
    """Does everything wrong."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def test_hostile_exceptions(bench: Bench) -> None:
    @bench.app.task
    def hostile(how: str) -> None:
        if how == "large":
            raise ValueError("x" * 50_000_000)
        if how == "args":
            raise ValueError(Hostile())
        raise Hostile

    results = [hostile.delay(how) for how in ("text", "large", "args")]
    bench.run_all()
    assert b"its __str__ failed" in bench.results.records[results[0].id].body
    assert isinstance(results[0].result, Hostile)
    assert isinstance(results[1].result, ValueError)
    for result in results:
        assert result.failed()
        assert len(bench.results.records[result.id].body) < 400_000


def test_a_record_of_an_older_run_does_not_win(bench: Bench, task: Any) -> None:
    result = task.delay(1)
    bench.run()
    late = Record(result.id, states.STARTED, 0.0, 0, 1, b"{}")
    bench.results.store([late])
    assert result.state == states.SUCCESS


def test_threads_wait_side_by_side(bench: Bench, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits long does not hold up another."""
    bench.app.client._given = None
    monkeypatch.setattr(bench.app.client, "_transport", bench.transport)
    opened: list[DictResults] = []
    inside = threading.Event()
    release = threading.Event()

    class Slow(DictResults):
        def wait(self, ids: Any, timeout: float) -> Any:
            if ids == ["slow"]:
                inside.set()
                assert release.wait(10)
            return super().wait(ids, timeout)

    def make(settings: Any) -> DictResults:
        backend = Slow()
        backend.records = bench.results.records
        opened.append(backend)
        return backend

    monkeypatch.setattr("engine.app.connect.results_for", make)
    done = task.delay(1)
    bench.run()
    body = msgspec.json.encode(Body(state=states.SUCCESS, task="t", date=1.0))
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(bench.app.AsyncResult("slow").get(timeout=10)))
    thread.start()
    assert inside.wait(10)
    assert done.get(timeout=5) == 1
    bench.results.records["slow"] = Record("slow", states.SUCCESS, 1.0, 0, 1, body, final=True)
    release.set()
    thread.join(10)
    assert got == [None]
    assert len(opened) == 2
    assert bench.app.AsyncResult("slow").ready()
    assert len(opened) == 2, "connections are used again"
    bench.app.close()


def test_ends_of_removed_messages_can_be_found(bench: Bench, task: Any) -> None:
    task.delay(1)
    message = bench.transport.take()
    record = ends.removed(Found(message.id, "default", "ready", body=message.encode()))
    assert record is not None
    assert (record.state, record.final, record.sent) == (states.REVOKED, True, message.sent)
    assert ends.removed(Found("x", "default", "ready", body=b"broken")) is None
