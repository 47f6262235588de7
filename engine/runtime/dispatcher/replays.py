"""Runs in the dispatcher: puts dead letters back whose task was unknown when they died and is known now."""

from __future__ import annotations

import logging

from engine.contract.transport import Transport
from engine.errors import TransportError
from engine.runtime.dispatcher.registry import Registry

log = logging.getLogger("engine.dispatcher")

REASON = "unknown task "
"""How the reason of such a dead letter begins; the name follows."""
LOOKED_AT = 1000
"""Dead letters that are looked at, the latest first."""


def replay_known(transport: Transport, registry: Registry) -> None:
    """Replays what this worker's tasks can run. Called at the start and after a reload."""
    try:
        ids = [
            letter.id
            for letter in transport.dead(LOOKED_AT)
            if letter.reason.startswith(REASON) and letter.reason.removeprefix(REASON) in registry
        ]
        count = transport.replay(ids) if ids else 0
    except TransportError as error:
        log.warning("dead letters of unknown tasks were not looked at: %s", error)
        return
    if count:
        log.info("%d dead letters are replayed: their tasks are known now", count)
