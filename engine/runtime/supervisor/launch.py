"""Runs in the supervisor: how each service is forked, and which descriptors it keeps."""

from __future__ import annotations

import socket

from engine.app.settings import Settings
from engine.runtime import log as log_setup
from engine.runtime import spawn
from engine.runtime.child import child
from engine.runtime.child import template as template_process
from engine.runtime.child.template import Birth
from engine.runtime.control import Wiring
from engine.runtime.dispatcher import dispatcher as dispatcher_process


def dispatcher(wiring: Wiring) -> int:
    """Forks the dispatcher; returns its pid. Raises OSError."""
    generations = wiring.generations
    sockets = [wiring.control, *wiring.outcomes, *(g.handoff for g in generations), *(g.takeback for g in generations)]
    settings = wiring.settings.worker

    def run() -> int:
        writer = log_setup.LogWriter()
        log_setup.configure("dispatcher", settings.log_level, as_json=settings.json_logs, writer=writer)
        return dispatcher_process.main(wiring)

    keep = [wiring.board.bell, *(sock.fileno() for sock in sockets)]
    return spawn.service(run, _title("dispatcher", wiring.settings), keep)


def template(birth: Birth, link: socket.socket) -> int:
    """Forks a template, whose end of its control pair is ``link``; returns its pid. Raises OSError."""
    keep = [birth.board.bell, *(sock.fileno() for sock in (link, birth.handoff, *birth.outcomes))]
    title = _title("template", birth.settings)
    return spawn.service(lambda: template_process.main(birth, link, child.main), title, keep)


def _title(role: str, settings: Settings) -> str:
    return f"engine: {role} ({settings.engine.name})"
