"""What a reload refuses, without any process."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from engine.app.config.loader import load
from engine.contract import Worker
from engine.runtime.supervisor.fleet import Fleet
from engine.runtime.supervisor.reload import Reload

TOML = '[engine]\napp = "shop"\n[broker]\nurl = "memory://"\n[worker]\nlog_level = "INFO"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "worker.toml"
    file.write_text(TOML)
    return file


@pytest.fixture
def fleet(file: Path) -> Iterator[Fleet]:
    made = Fleet(load(str(file), env={}), Worker("w", "host", "boot", ""), 1)
    yield made
    for generation in made.generations:
        generation.close()
    for pair in made.pairs:
        for end in pair:
            end.close()
    made.board.close()


def test_a_second_generation_is_made(fleet: Fleet, file: Path) -> None:
    reload = Reload(fleet)
    reload.advance()
    assert reload.outcome == {"state": "none", "why": ""}
    file.write_text(TOML.replace("INFO", "DEBUG"))
    reload.ask()
    reload.advance()
    assert reload.outcome["state"] == "asked"
    assert [g.number for g in fleet.generations] == [1, 2]
    assert fleet.generations[1].settings.worker.log_level == "DEBUG"
    assert fleet.config.settings.worker.log_level == "INFO", "not before the new code is ready"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("memory://", "memory://other"), "restart needed for a changed broker.url"),
        (("INFO", "LOUD"), "expected one of DEBUG"),
    ],
)
def test_what_is_refused_leaves_everything_as_it_is(fleet: Fleet, file: Path, change: Any, why: str) -> None:
    file.write_text(TOML.replace(*change))
    reload = Reload(fleet)
    reload.ask()
    reload.advance()
    assert reload.outcome["state"] == "failed"
    assert why in reload.outcome["why"]
    assert len(fleet.generations) == 1


def test_without_a_descriptor_the_old_code_goes_on(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    reload = Reload(fleet)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", full)
        reload.ask()
        reload.advance()
    assert reload.outcome == {"state": "failed", "why": "no descriptors for it: Too many open files"}
    assert len(fleet.generations) == 1
    reload.ask()
    reload.advance()
    assert len(fleet.generations) == 2, "the next one may find some"
