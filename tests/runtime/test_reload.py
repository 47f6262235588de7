"""How a reload goes, without any process."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from engine.app.config.loader import load
from engine.contract import Worker
from engine.runtime.supervisor.fleet import Fleet
from engine.runtime.supervisor.generations import Generation, Phase
from engine.runtime.supervisor.reload import CANARY_FAILURES, Reload

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


class Mail:
    """What the dispatcher is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __call__(self, message: object, fds: Sequence[int] = ()) -> None:
        self.told.append(type(message).__name__)


def up(fleet: Fleet, generation: int, pid: int) -> None:
    """A child of this generation waits for its first task."""
    for child in fleet.pool.order(generation, 0.0):
        spawned = fleet.pool.spawned(child.slot, child.spawn, pid, 0.0)
        assert spawned is not None
        fleet.pool.ready(spawned, 0.0)


@pytest.fixture
def running(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """An engine that is up, whose only child runs nothing."""
    fleet.generations[0].phase = Phase.ACTIVE
    up(fleet, 1, 4711)
    monkeypatch.setattr(fleet.dispatcher, "tell", Mail())
    return fleet


def trial_of(fleet: Fleet, reload: Reload) -> Generation:
    """Asks for a reload; returns its generation, whose template has imported the code."""
    reload.ask()
    reload.advance()
    fleet.generations[-1].phase = Phase.TRIAL
    return fleet.generations[-1]


def test_the_old_code_is_retired_when_a_child_of_the_new_is_ready(running: Fleet, file: Path) -> None:
    file.write_text(TOML.replace("INFO", "DEBUG"))
    reload, (old,) = Reload(running), running.generations
    new = trial_of(running, reload)
    reload.advance()
    assert (old.phase, new.phase) == (Phase.ACTIVE, Phase.TRIAL)
    assert running.dispatcher.tell.told == []  # type: ignore[attr-defined]
    up(running, 2, 4712)
    reload.advance()
    assert reload.outcome == {"state": "done", "why": ""}
    assert (old.phase, new.phase) == (Phase.RETIRED, Phase.ACTIVE)
    assert (old.template.wanted, new.template.wanted) == (False, True)
    assert running.dispatcher.tell.told == ["Reconfigure", "AddGeneration", "RetireGeneration"]  # type: ignore[attr-defined]
    assert running.config.settings.worker.log_level == "DEBUG"
    reload.advance()
    assert len(running.generations) == 2, "once asked for, once made"


def test_new_code_whose_children_die_is_given_up(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr("engine.runtime.supervisor.reload.processes.kill", killed.extend)
    reload, (old,) = Reload(running), running.generations
    new = trial_of(running, reload)
    (child,) = running.pool.order(2, 0.0)
    for _ in range(CANARY_FAILURES - 1):
        running.pool.failed(child, 0.0)
        reload.advance()
    assert new.phase is Phase.TRIAL
    running.pool.failed(child, 0.0)
    reload.advance()
    assert reload.outcome["state"] == "failed"
    assert "its children die before they are ready" in reload.outcome["why"]
    assert (old.phase, new.phase) == (Phase.ACTIVE, Phase.RETIRED)
    assert (old.template.wanted, new.template.wanted) == (True, False)
    assert running.pool.of(2) == [], "what was ordered is not waited for"
    assert killed == []
    assert new.inlet.recv(1) == b"", "a child that comes all the same sees the end of the hand-off"
    running.forget_retired()
    assert running.generations == [old]


def test_a_child_of_new_code_that_is_given_up_is_killed(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr("engine.runtime.supervisor.reload.processes.kill", killed.extend)
    reload = Reload(running)
    trial_of(running, reload)
    (child,) = running.pool.order(2, 0.0)
    running.pool.spawned(child.slot, child.spawn, 4712, 0.0)
    reload.failed("the template died (SIGSEGV)")
    assert reload.outcome == {"state": "failed", "why": "the template died (SIGSEGV)"}
    assert killed == [4712]
    assert running.pool.of(2) == [child], "until it is reaped"
    reload.failed("again")
    assert reload.outcome["why"] == "the template died (SIGSEGV)", "there is nothing left to give up"


def test_a_reload_that_waits_for_a_slot_says_so_once(running: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    up(running, 7, 4713)
    reload = Reload(running)
    trial_of(running, reload)
    reload.advance()
    reload.advance()
    said = "reload waits for a free slot; tasks that run: none"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [said]


def test_one_that_is_asked_for_meanwhile_follows(running: Fleet) -> None:
    reload = Reload(running)
    trial_of(running, reload)
    reload.ask()
    reload.advance()
    assert [g.number for g in running.generations] == [1, 2]
    up(running, 2, 4712)
    reload.advance()
    assert reload.outcome["state"] == "asked", "who asked last does not hear of the one before"
    reload.advance()
    assert [g.number for g in running.generations] == [1, 2, 3]
    assert reload.outcome["state"] == "asked"
