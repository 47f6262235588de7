"""Runs in the supervisor: what it answers to the verbs of the control socket."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from engine import __version__
from engine.app.config.urls import readable
from engine.runtime import board as words
from engine.runtime.board import STATE_NAMES
from engine.runtime.supervisor.children import Child, Stage
from engine.runtime.supervisor.commands import Answer
from engine.runtime.supervisor.fleet import Fleet
from engine.runtime.supervisor.reload import Reload
from engine.runtime.supervisor.services import Service
from engine.runtime.supervisor.shutdown import Shutdown


def verbs(fleet: Fleet, reload: Reload, shutdown: Shutdown) -> dict[str, Callable[[], Answer]]:
    """Returns what can be asked, by verb."""

    def stop() -> Answer:
        shutdown.drain("stop command")
        return {"ok": True, "pid": _pid()}

    def quit_() -> Answer:
        shutdown.quick("quit command")
        return {"ok": True, "pid": _pid()}

    def ask_to_reload() -> Answer:
        if fleet.draining:
            return {"ok": False, "error": "the engine is shutting down"}
        reload.ask()
        return {"ok": True, "pid": _pid()}

    return {
        "ping": lambda: {"ok": True, "pid": _pid(), "name": fleet.config.settings.engine.name},
        "status": lambda: status(fleet, reload),
        "stop": stop,
        "quit": quit_,
        "reload": ask_to_reload,
    }


def status(fleet: Fleet, reload: Reload) -> Answer:
    """Returns the state of all processes and slots. Durations are seconds."""
    settings = fleet.config.settings
    return {
        "ok": True,
        "name": settings.engine.name,
        "pid": _pid(),
        "worker": fleet.worker.id,
        "version": __version__,
        "state": _state(fleet),
        "uptime": time.monotonic() - fleet.started_at,
        "concurrency": fleet.pool.concurrency,
        "queues": settings.worker.queues,
        "reload": reload.outcome,
        "broker": readable(settings.broker.url or ""),
        "processes": [
            {
                "role": "supervisor",
                "pid": _pid(),
                "uptime": time.monotonic() - fleet.started_at,
                "restarts": 0,
            },
            _service(fleet.dispatcher),
            *(_service(template) for template in _templates(fleet)),
        ],
        "slots": [_slot(fleet, child) for child in fleet.pool.children if child.stage is not Stage.EMPTY],
    }


def _state(fleet: Fleet) -> str:
    if fleet.draining:
        return "draining"
    return "running" if fleet.booted else "starting"


def _templates(fleet: Fleet) -> list[Service]:
    """The templates that run or will: not those of old code, which end while its tasks go on."""
    templates = [generation.template for generation in fleet.generations]
    return [template for template in templates if template.pid or template.wanted]


def _service(service: Service) -> Answer:
    return {
        "role": service.role,
        "pid": service.pid or None,
        "uptime": service.uptime,
        "restarts": max(0, service.starts - 1),
    }


def _slot(fleet: Fleet, child: Child) -> Answer:
    slot = fleet.board.slot(child.slot)
    generation = fleet.generation(child.template)
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
