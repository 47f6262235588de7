"""Runs in the template: imports the app once, then forks children on request, and does nothing else.

It outlives a killed supervisor for the moment it takes to kill what the children left in their sessions: nobody else is
there to do it.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from engine.app import misfits
from engine.app.app import Engine
from engine.app.discovery import load_app
from engine.app.settings import Settings
from engine.contract.transport import Worker
from engine.errors import ConfigError
from engine.runtime import board as words
from engine.runtime import control, processes, spawn
from engine.runtime import log as log_setup
from engine.runtime.board import Board

log = logging.getLogger("engine.template")


@dataclass(frozen=True)
class Birth:
    """All that a child is born with."""

    settings: Settings
    worker: Worker
    board: Board
    handoff: socket.socket
    """The children's end of their generation's hand-off pair."""
    outcomes: list[socket.socket]
    """The child's end of each slot's outcome pair."""
    generation: int
    supervisor: int
    """Pid."""
    app: Engine | None = None
    """None: the child imports it itself (``preload = false``)."""


ChildMain = Callable[[Birth, int, int, int], int]


def main(birth: Birth, link: socket.socket, run_child: ChildMain) -> int:
    """Runs the template until the supervisor hangs up; returns its exit status."""
    logging.getLogger().handlers.clear()  # the supervisor's: the app may want its own
    notes: list[str] = []
    if birth.settings.worker.preload:
        try:
            app, notes = _import_app(birth.settings)
        except ConfigError as error:
            control.tell(link, control.Failed(78, str(error)))
            return 78
        birth = replace(birth, app=app)
    log_setup.configure_child(birth.settings.worker.log_level, as_json=birth.settings.worker.json_logs)
    forget_environment()
    gc.collect()
    gc.freeze()
    spawn.outlive_parent()
    control.tell(link, control.Ready(birth.app.task_infos() if birth.app else [], notes))
    _serve(birth, link, run_child)
    _sweep(birth.board)
    return 0


def forget_environment() -> None:
    """Removes ENGINE_* (it may hold passwords) from what tasks and their subprocesses see."""
    for name in [name for name in os.environ if name.startswith("ENGINE_") and name != "ENGINE_CONFIG"]:
        del os.environ[name]


def _import_app(settings: Settings) -> tuple[Engine, list[str]]:
    app = load_app(settings)
    misfits.refuse(settings, app)
    notes = [text for look in misfits.HARMFUL for text in look(settings, app)]
    others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    if others:
        notes.append(
            f"importing the app started threads ({', '.join(others)}), which do not exist in forked children: "
            "start them in @app.on_child_start, or set [worker] preload = false"
        )
    return app, notes


def _serve(birth: Birth, link: socket.socket, run_child: ChildMain) -> None:
    while True:
        try:
            heard = control.hear(link)
        except OSError:
            return
        if heard is None:
            return
        order = heard[0]
        if isinstance(order, control.Spawn):
            _spawn(birth, link, run_child, order)


def _spawn(birth: Birth, link: socket.socket, run_child: ChildMain, order: control.Spawn) -> None:
    try:
        started = spawn.child(
            lambda pid: control.tell(link, control.Spawned(order.slot, order.spawn, pid)),
            lambda middle: run_child(_without(birth, link), order.slot, order.spawn, middle),
        )
    except OSError as error:
        log.error("cannot fork a child: %s", error)
        started = False
    if not started:
        control.tell(link, control.Spawned(order.slot, order.spawn, 0))


def _without(birth: Birth, link: socket.socket) -> Birth:
    """Closes, in the child, the template's own descriptor."""
    link.close()
    return birth


def _sweep(board: Board) -> None:
    """Kills what is left in the sessions of all children, after the supervisor's death."""
    owners = {board.slot(index)[words.OWNER] for index in range(board.slots)} - {0}
    processes.kill_sessions(owners)
