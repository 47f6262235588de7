"""States that are written while a task runs: STARTED, and those of ``update_state``."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.app import clock, codecs, ends
from engine.app.context import Request
from engine.contract.results import Body


def emit_state(request: Request, state: str, meta: Any) -> None:
    """Writes a state that is not final, in order with everything else this run writes. Raises SerializationError."""
    message, run = request.message, request.run
    if run is None:
        return
    result = msgspec.UNSET if meta is None else msgspec.Raw(codecs.encode(codecs.JSON, meta))
    body = msgspec.json.encode(
        Body(
            state=state,
            task=message.task,
            date=clock.now(),
            result=result,
            retries=message.retries,
            worker=run.worker,
            parent=message.parent,
            root=message.root,
        )
    )
    request.emitted = True
    run.emit(ends.record_of(message, run, state, body, final=False))
