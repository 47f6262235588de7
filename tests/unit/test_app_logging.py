"""What the log says of a task that failed."""

from __future__ import annotations

import logging

import pytest
from app_fakes import Bench


def test_a_failure_is_logged_with_its_exception_and_the_users_frames_only(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    @bench.app.task
    def sour() -> None:
        raise ValueError("x" * 20_000)

    sour.apply()
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert record.exc_info[2] is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert record.exc_info[2].tb_frame.f_code is sour.function.__code__
    assert "characters left out" in (record.exc_text or "")
    assert "app/execute.py" not in (record.exc_text or "")
    caplog.clear()
    logging.getLogger("engine.task").setLevel(logging.CRITICAL)
    try:
        sour.apply()
    finally:
        logging.getLogger("engine.task").setLevel(logging.NOTSET)
    assert not caplog.records
