"""Runs in the supervisor: what it answers to the verbs of the control socket."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine import __version__
from engine.app.config.loader import readable
from engine.runtime import board as words
from engine.runtime.board import STATE_NAMES
from engine.runtime.supervisor.children import Child, Stage
from engine.runtime.supervisor.services import Service

if TYPE_CHECKING:
    from engine.runtime.supervisor.supervisor import Supervisor

Answer = dict[str, Any]


def verbs(supervisor: Supervisor) -> dict[str, Callable[[], Answer]]:
    """Returns what can be asked, by verb."""

    def stop() -> Answer:
        supervisor.shutdown.drain("stop command")
        return {"ok": True, "pid": _pid()}

    def quit_() -> Answer:
        supervisor.shutdown.quick("quit command")
        return {"ok": True, "pid": _pid()}

    def reload() -> Answer:
        if supervisor.shutdown.begun:
            return {"ok": False, "error": "the engine is shutting down"}
        supervisor.reload.ask()
        return {"ok": True, "pid": _pid()}

    return {
        "ping": lambda: {"ok": True, "pid": _pid(), "name": supervisor.config.settings.engine.name},
        "status": lambda: status(supervisor),
        "stop": stop,
        "quit": quit_,
        "reload": reload,
    }


def status(supervisor: Supervisor) -> Answer:
    """Returns the state of all processes and slots. Durations are seconds."""
    settings = supervisor.config.settings
    return {
        "ok": True,
        "name": settings.engine.name,
        "pid": _pid(),
        "worker": supervisor.plant.worker.id,
        "version": __version__,
        "state": _state(supervisor),
        "uptime": time.monotonic() - supervisor.started_at,
        "concurrency": supervisor.pool.concurrency,
        "queues": settings.worker.queues,
        "reload": supervisor.reload.outcome,
        "broker": readable(settings.broker.url or ""),
        "processes": [
            {
                "role": "supervisor",
                "pid": _pid(),
                "uptime": time.monotonic() - supervisor.started_at,
                "restarts": 0,
            },
            _service(supervisor.dispatcher),
            *(_service(generation.template) for generation in supervisor.generations),
        ],
        "slots": [_slot(supervisor, child) for child in supervisor.pool.children if child.stage is not Stage.EMPTY],
    }


def _state(supervisor: Supervisor) -> str:
    if supervisor.shutdown.begun:
        return "draining"
    return "running" if supervisor.booted else "starting"


def _service(service: Service) -> Answer:
    return {
        "role": service.role,
        "pid": service.pid or None,
        "uptime": service.uptime,
        "restarts": max(0, service.starts - 1),
    }


def _slot(supervisor: Supervisor, child: Child) -> Answer:
    slot = supervisor.board.slot(child.slot)
    generation = supervisor.generation(child.template)
    busy = slot[words.STATE] in (words.RUNNING, words.REPORTING)
    up = child.stage is Stage.UP
    return {
        "slot": child.slot,
        "pid": child.pid or None,
        "state": STATE_NAMES[slot[words.STATE]] if up else "starting",
        "task": generation.task_name(slot[words.TASK]) if busy and generation else None,
        "id": slot.task_id if busy else None,
        "seconds": (time.monotonic_ns() - slot[words.STARTED_NS]) / 1e9 if busy else None,
        "done": slot[words.TASKS_DONE],
        "generation": child.template,
    }


def _pid() -> int:
    return os.getpid()
