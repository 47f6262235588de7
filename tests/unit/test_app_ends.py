"""Ends that no function decides: settlement and record of each."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from app_fakes import FakeRun

from engine import (
    MemoryLimitExceeded,
    NotRegistered,
    SerializationError,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from engine.app import ends, failures
from engine.app.ends import End
from engine.app.wire import TaskInfo
from engine.contract import Ack, Body, Dead, Message, Release


def message(**fields: Any) -> Message:
    return Message(version=1, id="id-1", task="t", sent=100.0, retries=2, **fields)


def error_of(end: End) -> BaseException:
    assert end.settlement.record is not None
    assert end.settlement.record.final
    assert end.settlement.record.order == (100.0, 2, 4)
    assert end.settlement.record.body == end.body
    return failures.rebuild(msgspec.json.decode(end.body, type=Body))


INFO = TaskInfo("t")
LATE = FakeRun(claim=b"c", deliveries=4)
EARLY = FakeRun(claim=b"", deliveries=4)
IGNORED = TaskInfo("t", ignore_result=True)
KEPT = TaskInfo("t", ignore_result=True, store_errors_even_if_ignored=True)
DEAD = TaskInfo("t", acks_on_failure_or_timeout=False)


@pytest.mark.parametrize(("crashes", "again"), [(0, True), (1, True), (2, False), (5, False)])
def test_a_crash(crashes: int, again: bool) -> None:
    end = ends.lost(message(), FakeRun(b"c", deliveries=4, crashes=crashes), INFO, "SIGSEGV", 3)
    if again:
        assert end == End(Release(b"c", counts="crash"), reason="SIGSEGV")
        return
    assert isinstance(end.settlement, Dead)
    assert end.settlement.reason == f"crash limit: its process died {crashes + 1} times, at last of SIGSEGV"
    error = error_of(end)
    assert isinstance(error, WorkerLostError)
    assert error.args == ("SIGSEGV",)


def test_a_crash_of_an_early_acked_task() -> None:
    end = ends.lost(message(), EARLY, INFO, "exit status 3", 3)
    assert isinstance(end.settlement, Ack)
    assert isinstance(error_of(end), WorkerLostError)
    assert end.state == "FAILURE"


def test_limits() -> None:
    end = ends.limit(message(), LATE, INFO, TimeLimitExceeded(3.0), stack="at x.py:3", soft_raised=True, runtime=3.1)
    error = error_of(end)
    assert isinstance(error, TimeLimitExceeded)
    assert error.seconds == 3.0
    body = msgspec.json.decode(end.body, type=Body)
    assert body.traceback == "at x.py:3"
    assert body.notes == {"soft_limit": "raised, but the task went on"}
    assert isinstance(end.settlement, Ack)
    end = ends.limit(message(), LATE, DEAD, MemoryLimitExceeded(2 * 2**20, 2**20))
    assert isinstance(end.settlement, Dead)
    error = error_of(end)
    assert isinstance(error, MemoryLimitExceeded)
    assert (error.used, error.limit) == (2 * 2**20, 2**20)


def test_revoked_and_expired_are_always_recorded() -> None:
    for end, reason in (
        (ends.expired(message(ignore_result=True), LATE, IGNORED), "expired"),
        (ends.revoked(message(ignore_result=True), LATE, IGNORED), "revoked"),
    ):
        assert isinstance(end.settlement, Ack)
        error = error_of(end)
        assert isinstance(error, TaskRevokedError)
        assert error.args == (reason,)
        assert end.state == "REVOKED"


def test_an_unknown_task() -> None:
    end = ends.unknown_task(message(), LATE)
    assert isinstance(end.settlement, Dead)
    assert end.settlement.reason == "unknown task t"
    assert isinstance(error_of(end), NotRegistered)


def test_what_cannot_be_run_or_read() -> None:
    end = ends.refused(message(), LATE, SerializationError("pickle is not accepted"))
    assert isinstance(end.settlement, Dead)
    assert "pickle" in end.settlement.reason
    assert isinstance(error_of(end), SerializationError)
    end = ends.malformed(LATE, "malformed message: " + "x" * 5000)
    assert isinstance(end.settlement, Dead)
    assert end.settlement.record is None
    assert len(end.settlement.reason) < 1100


def test_shutdown() -> None:
    assert ends.shutdown(message(), LATE, INFO).settlement == Release(b"c", counts="nothing")
    assert isinstance(error_of(ends.shutdown(message(), EARLY, INFO)), WorkerLostError)


def test_failures_of_tasks_whose_result_is_ignored() -> None:
    def record(info: TaskInfo, emitted: bool, **fields: Any) -> Any:
        return ends.failed(message(**fields), LATE, info, ValueError("x"), emitted=emitted).settlement.record

    assert record(IGNORED, False) is None
    removed = record(IGNORED, True)
    assert not removed.keep
    assert record(KEPT, False).keep
    assert record(INFO, False, ignore_result=True) is None
    assert record(IGNORED, False, ignore_result=False).keep
    assert ends.failed(message(), LATE, None, ValueError("x")).state == "FAILURE"


def test_link_error_follows_every_failure() -> None:
    link = {"task": "note", "id": "n-1", "args": ["a"], "queue": "slow", "delay": 5.0}
    with_link = message(link_error=[link, {"broken": True}])
    for end in (
        ends.lost(with_link, EARLY, INFO, "SIGKILL", 3),
        ends.limit(with_link, LATE, INFO, TimeLimitExceeded(1)),
        ends.unknown_task(with_link, LATE),
    ):
        [envelope] = end.publishes
        assert (envelope.id, envelope.queue) == ("n-1", "slow")
        assert envelope.due is not None
        followed = Message.decode(envelope.body)
        assert bytes(followed.args) == b'["id-1","a"]'
        assert (followed.parent, followed.root) == ("id-1", "id-1")
    assert ends.lost(with_link, LATE, INFO, "SIGKILL", 3).publishes == []


def test_a_takeover_makes_a_record() -> None:
    record = ends.crash_record(message(), 5, "crash limit: host lost")
    assert record.order == (100.0, 2, 5)
    assert record.final
    assert isinstance(failures.rebuild(msgspec.json.decode(record.body, type=Body)), WorkerLostError)


def test_summaries_fit_one_line() -> None:
    assert failures.summary(failures.describe(ValueError("a\n  b"))) == "ValueError: a b"
    assert failures.summary(failures.describe(ValueError())) == "ValueError"
    assert len(failures.summary(failures.describe(ValueError("x" * 5000)))) < 1100


def test_long_texts_keep_head_and_tail() -> None:
    text = failures.cut("a" * 100 + "z" * 100, 50)
    assert text.startswith("a" * 25 + "\n")
    assert text.endswith("\n" + "z" * 25)
    assert "150 characters left out" in text
    assert failures.cut("\ud800", 10) == "\\ud800"
