"""Runs in the supervisor: how each service is forked, and with what it is born."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

from engine import __version__
from engine.app.config.loader import readable
from engine.runtime import control, spawn
from engine.runtime import log as log_setup
from engine.runtime.child import child
from engine.runtime.child import template as template_process
from engine.runtime.child.template import Birth
from engine.runtime.dispatcher import dispatcher as dispatcher_process
from engine.runtime.supervisor.generations import Generation, Phase

if TYPE_CHECKING:
    from engine.runtime.supervisor.supervisor import Supervisor

log = logging.getLogger("engine.supervisor")


def dispatcher(supervisor: Supervisor, link: socket.socket) -> int:
    """Forks the dispatcher; returns its pid."""
    known = [g for g in supervisor.generations if g.phase in (Phase.ACTIVE, Phase.RETIRED)]
    wiring = control.Wiring(
        settings=supervisor.config.settings,
        worker=supervisor.plant.worker,
        start=supervisor.dispatcher.starts,
        board=supervisor.board,
        control=link,
        outcomes=[ours for ours, _ in supervisor.pairs],
        generations=[control.Generation(g.number, g.outlet, g.tasks, g.inlet) for g in known],
        draining=supervisor.shutdown.begun,
    )
    sockets = [link, *wiring.outcomes, *(g.outlet for g in known), *(g.inlet for g in known)]
    keep = [supervisor.board.bell, *(sock.fileno() for sock in sockets)]
    settings = supervisor.config.settings.worker

    def run() -> int:
        writer = log_setup.LogWriter()
        log_setup.configure("dispatcher", settings.log_level, as_json=settings.json_logs, writer=writer)
        return dispatcher_process.main(wiring)

    return spawn.service(run, _title(supervisor, "dispatcher"), keep)


def template(supervisor: Supervisor, generation: Generation, link: socket.socket) -> int:
    """Forks the template of a generation; returns its pid."""
    birth = Birth(
        settings=generation.settings,
        worker=supervisor.plant.worker,
        board=supervisor.board,
        handoff=generation.inlet,
        outcomes=[theirs for _, theirs in supervisor.pairs],
        generation=generation.number,
        supervisor=os.getpid(),
    )
    keep = [supervisor.board.bell, link.fileno(), generation.inlet.fileno()]
    keep += [theirs.fileno() for _, theirs in supervisor.pairs]
    return spawn.service(lambda: template_process.main(birth, link, child.main), _title(supervisor, "template"), keep)


def announce(supervisor: Supervisor, generation: Generation) -> None:
    """Logs that the engine is up, and with what."""
    settings = supervisor.config.settings
    names = [info.name for info in generation.tasks]
    log.info("tasks: %s", ", ".join(names) if names else "told by the first child")
    log.info(
        "engine %s %s is up: %d children, queues %s, broker %s, results %s",
        settings.engine.name,
        __version__,
        supervisor.pool.concurrency,
        ", ".join(settings.worker.queues),
        readable(settings.broker.url or ""),
        readable(settings.results.url) if settings.results.url else "none",
    )


def _title(supervisor: Supervisor, role: str) -> str:
    return f"engine: {role} ({supervisor.config.settings.engine.name})"
