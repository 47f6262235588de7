"""docs/tasks.md: its blocks are one module, and its tasks do what the page says."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from project_files import ROOT

from engine.app import registry
from engine.testing import eager

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/tasks.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's module."""
    (tmp_path / "page_of_tasks.py").write_text("\n\n".join(BLOCKS))
    monkeypatch.syspath_prepend(tmp_path)
    with registry.isolated():
        yield importlib.import_module("page_of_tasks")
    monkeypatch.delitem(sys.modules, "page_of_tasks")


def test_the_tasks_do_what_is_said(shop: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with eager(shop.app) as run:
        assert shop.report.delay(2026, [1, 2]).get() == "2 months of 2026"
        polled = shop.poll.delay(7)
        assert polled.get() == "7 after 2 retries"
        assert run.waits(polled) == [0, 30, 30]
        assert shop.convert.delay(3).get() == {"pages": 3}
        assert shop.train.delay("rain", 3).get() == "rain after 3 rounds"
        assert shop.book.delay(-1).state == "FAILURE"
        assert shop.risky.delay(0).state == "FAILURE"
        assert "failed: page_of_tasks.risky division by zero" in capsys.readouterr().out


def test_an_error_that_is_retried(shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [shop.BankIsDown, shop.BankIsDown, None]

    def ask(order: int) -> str:
        if answer := answers.pop(0):
            raise answer
        return f"paid {order}"

    monkeypatch.setattr(shop, "ask_the_bank", ask)
    with eager(shop.app):
        result = shop.charge.delay(3)
    assert (result.get(), result.retries) == ("paid 3", 2)


def test_the_calls(shop: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with eager(shop.app) as run:
        shop.app.task(name="billing.close")(lambda number: number)
        shop.order(5)
        sent = [message.task for message in run.sent]
    assert "SUCCESS paid 5" in capsys.readouterr().out
    assert sent.count("page_of_tasks.charge") == 5
    assert {"page_of_tasks.report", "page_of_tasks.book", "billing.close", "page_of_tasks.poll"} <= set(sent)
