"""Document processing, as in the tutorials."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from proj import celery_app
from proj.documents import Document, Report, process_document, summarise
from pydantic import ValidationError

from engine import AsyncResult, RemoteError
from engine.testing import Worker
from engine.testing.harness import wait_for

TIMEOUT = 20


def _document(folder: Path, pages: int, **fields: Any) -> Document:
    (folder / "doc.txt").write_text("\f".join(["two words"] * pages))
    return Document(id="doc", folder=folder, **fields)


def _running(running: Worker, result: AsyncResult[Any]) -> int:
    """Waits until a task reports progress; returns the pid of its child."""
    wait_for(lambda: result.state == "PROGRESS" and result.info["step"] == "recognise", "progress")
    (row,) = [row for row in running.process.running("documents.process") if row["id"] == result.id]
    pid: int = row["pid"]
    return pid


def test_a_document_is_processed(running: Worker, folder: Path) -> None:
    result = process_document.delay(_document(folder, 20))
    _running(running, result)
    percent = result.info["percent"] if result.state == "PROGRESS" else 100
    assert 0 < percent <= 100
    assert result.get(timeout=TIMEOUT) == Report(document_id="doc", pages=20, words=40)
    assert result.status == "SUCCESS"
    assert celery_app.AsyncResult(result.id).get(timeout=TIMEOUT)["words"] == 40


def test_the_storage_is_asked_again(running: Worker, folder: Path) -> None:
    (folder / "outage").touch()
    report = process_document.apply_async((_document(folder, 2),)).get(timeout=TIMEOUT)
    assert (report.pages, report.attempts, report.redelivered) == (2, 2, False)


def test_out_of_time_it_returns_what_it_has(running: Worker, folder: Path) -> None:
    result = process_document.apply_async(
        kwargs={"document": _document(folder, 5000)}, soft_time_limit=0.5, time_limit=30
    )
    report = result.get(timeout=TIMEOUT)
    assert not report.complete
    assert 0 < report.pages < 5000
    assert report.words == 2 * report.pages


def test_what_does_not_validate_is_a_failure_at_once(running: Worker, folder: Path) -> None:
    result = celery_app.send_task("documents.process", [{"id": "", "folder": str(folder)}])
    with pytest.raises((ValidationError, RemoteError), match="at least 1 character"):
        result.get(timeout=TIMEOUT)
    assert result.state == "FAILURE"
    assert result.retries == 0


def test_a_killed_child_costs_one_run(running: Worker, folder: Path) -> None:
    result = process_document.delay(_document(folder, 40))
    os.kill(_running(running, result), signal.SIGKILL)
    report = result.get(timeout=TIMEOUT)
    assert (report.pages, report.redelivered, report.attempts) == (40, True, 1)


def test_a_linked_task_gets_the_report(running: Worker, folder: Path) -> None:
    link = summarise.s().set(task_id=f"summary-{folder.name}-{running.app.settings.broker.url[:3]}")
    process_document.apply_async((_document(folder, 3),), link=link)
    summary = celery_app.AsyncResult(link.options["task_id"])
    assert summary.get(timeout=TIMEOUT) == "doc: 6 words"


def test_who_wants_to_know_gets_an_email(running: Worker, folder: Path) -> None:
    result = process_document.delay(_document(folder, 1, notify=["ann@example.org"]))
    assert result.get(timeout=TIMEOUT).complete
    wait_for(lambda: list(folder.glob("*.mail")), "the e-mail")
    assert [child.get(timeout=TIMEOUT) for child in result.children] == ["sent to ann@example.org after 0 retries"]
