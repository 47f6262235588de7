"""Eager mode: the code that a child runs, on a clock that skips the waiting."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime

import pytest
import shop

from engine import Engine, SerializationError, TaskRevokedError, states
from engine.app import clock
from engine.testing import Eager, assert_not_sent, assert_sent, eager, recording, sent_by


def test_what_is_sent_runs_at_once_in_this_process(engine_app: Engine) -> None:
    assert engine_app is shop.app
    result = shop.charge.delay(7)
    assert result.get() == "7 paid 100"
    assert shop.app.AsyncResult(result.id).state == states.SUCCESS


def test_retries_wait_on_the_clock_only(engine_eager: Eager) -> None:
    shop.Payments.failures = 3
    begun = engine_eager.clock.now()
    result = shop.charge.delay(7)
    assert result.get() == "7 paid 100"
    assert engine_eager.waits(result) == [0.0, 30.0, 60.0, 120.0]
    assert [ran.state for ran in engine_eager.runs_of(result)] == ["RETRY"] * 3 + ["SUCCESS"]
    assert engine_eager.clock.now() == begun


def test_the_last_retry_is_the_last(engine_eager: Eager) -> None:
    shop.Payments.failures = 9
    result = shop.charge.delay(7)
    assert result.failed()
    with pytest.raises(shop.PaymentDown):
        result.get()
    assert [ran.retries for ran in engine_eager.runs] == [0, 1, 2, 3, 4]


def test_what_expires_before_it_is_due_is_revoked(engine_eager: Eager) -> None:
    assert shop.remind.apply_async((1,), countdown=59).get() == 1
    late = shop.remind.apply_async((1,), countdown=61)
    assert late.state == states.REVOKED
    with pytest.raises(TaskRevokedError, match="expired"):
        late.get()
    assert shop.app.AsyncResult(late.id).state == states.REVOKED
    assert engine_eager.waits(late) == [61.0]


def test_a_retry_that_is_due_after_the_message_expired_is_revoked(engine_eager: Eager) -> None:
    shop.Payments.failures = 3
    result = shop.charge.apply_async((7,), expires=80)
    assert result.state == states.REVOKED
    assert engine_eager.waits(result) == [0.0, 30.0, 60.0]


def test_the_states_on_the_way_are_kept(engine_eager: Eager) -> None:
    result = shop.charge.delay(7)
    assert engine_eager.runs_of(result)[0].states == ["CHARGING"]


def test_the_test_moves_the_clock(engine_eager: Eager) -> None:
    engine_eager.clock.move_to(datetime(2030, 1, 1, tzinfo=UTC).timestamp())
    engine_eager.clock.advance(3600)
    result = shop.receipt.delay(1, 2)
    assert result.date_done == datetime(2030, 1, 1, 1, tzinfo=UTC)
    due = shop.remind.apply_async((1,), eta=datetime(2030, 1, 1, 1, 0, 30, tzinfo=UTC))
    assert engine_eager.waits(due) == [30.0]


def test_arguments_take_the_way_through_the_codec(engine_app: Engine) -> None:
    assert shop.receipt.delay(1, 2, date(2030, 1, 1)).get() == "1: 2 on date"
    with pytest.raises(SerializationError, match="'customer'"):
        shop.remind.delay(object())  # type: ignore[arg-type]


def test_a_task_that_leaves_no_state(engine_eager: Eager) -> None:
    assert shop.skip.delay().state == states.PENDING
    assert [ran.state for ran in engine_eager.runs] == [""]


def test_failures_are_raised_where_the_test_wants_them() -> None:
    with eager(shop.app, propagate=True), pytest.raises(ValueError, match="no apples"):
        shop.fail.delay()


def test_afterwards_all_is_as_it_was() -> None:
    before = dict(vars(shop.app))
    with eager(shop.app) as made:
        made.clock.advance(1e6)
        shop.remind.delay(1)
    assert vars(shop.app) == before
    assert clock.now is time.time
    with pytest.raises(AssertionError, match="nobody watches"):
        sent_by(shop.app)


def test_what_tasks_send_is_seen(engine_app: Engine) -> None:
    shop.charge.delay(7, cents=5)
    assert_sent(shop.charge, (7, 5))
    sent = assert_sent(shop.receipt, (7, 5), queue="mail", countdown=600, count=1)
    assert (sent.args, sent.kwargs) == ([7, 5], {})
    assert [one.task for one in sent_by(engine_app)] == ["shop.charge", "shop.receipt"]
    assert_not_sent(shop.remind)


def test_recording_runs_nothing(engine_sent: list[object]) -> None:
    result = shop.charge.apply_async((7,), {"cents": 5}, priority=3, headers={"tenant": "a"})
    shop.remind.delay(1)
    shop.receipt.delay(1, 2, day=date(2030, 1, 1))
    assert result.state == states.PENDING
    assert len(engine_sent) == 3
    assert_sent(shop.charge, (7, 5), priority=3, headers={"tenant": "a"}, id=result.id)
    assert_sent(shop.remind, expires=60.0)
    assert_sent(shop.receipt, (1,), {"cents": 2, "day": date(2030, 1, 1)})
    assert_sent(shop.app, task="shop.remind", count=1)
    assert_not_sent(shop.app, task="shop.fail")


def test_what_was_not_sent_is_an_error_that_lists_what_was() -> None:
    with recording(shop.app):
        with pytest.raises(AssertionError, match="sent were: nothing"):
            assert_sent(shop.remind)
        shop.remind.apply_async((1,), countdown=5)
        with pytest.raises(AssertionError, match=r"shop\.remind\(1\) queue='default' countdown=5"):
            assert_sent(shop.remind, (2,))
        with pytest.raises(AssertionError, match=r"1 messages fit shop\.remind, not 2"):
            assert_sent(shop.remind, count=2)
        with pytest.raises(AssertionError):
            assert_not_sent(shop.remind)
        with pytest.raises(TypeError, match="no attribute color"):
            assert_sent(shop.remind, color="red")
        assert_not_sent(shop.remind, (2,))
        assert_not_sent(shop.remind, queue="slow")
        with pytest.raises(ValueError, match="assert_not_sent"):
            assert_sent(shop.remind, count=0)
