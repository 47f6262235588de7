"""Runs in the dispatcher: what a child's death means for the task that it ran. Pure: no I/O but the log."""

from __future__ import annotations

import logging

from engine.app import ends, links, wire
from engine.contract.message import Message
from engine.contract.results import FAILURE, Record
from engine.contract.transport import Dead, DeadLetter, Release
from engine.errors import MemoryLimitExceeded, TimeLimitExceeded, WorkerLostError
from engine.runtime.dispatcher.handout import Held

log = logging.getLogger("engine.dispatcher")


def judge(death: wire.Death, held: Held, max_crashes: int, worker: str) -> ends.End:
    """Returns how the run ends that the dead child had begun."""
    message, info = held.message, held.info
    if not death.aimed:
        # The kill was meant for the task that this child ran before: this one is not to blame.
        if held.claim:
            return ends.End(Release(held.claim), reason=death.cause)
        return ends.failed(message, held, info, WorkerLostError(death.cause), worker=worker)
    if death.why == "time_limit":
        error = TimeLimitExceeded(death.limit, death.stack)
        return ends.limit(
            message,
            held,
            info,
            error,
            worker=worker,
            runtime=death.used,
            stack=death.stack,
            soft_raised=death.soft_raised,
        )
    if death.why == "memory_limit":
        memory = MemoryLimitExceeded(int(death.used), int(death.limit))
        return ends.limit(message, held, info, memory, worker=worker)
    if death.why == "shutdown":
        return ends.shutdown(message, held, info, worker=worker)
    if death.why == "revoked":
        return ends.revoked(message, held, info)
    return ends.lost(message, held, info, death.cause, max_crashes, worker=worker)


def buried(message: Message, letter: DeadLetter, info: wire.TaskInfo | None) -> ends.End:
    """Returns how a run ends that a takeover made a dead letter: there is nothing left to settle."""
    record: Record | None = ends.crash_record(message, letter.deliveries, letter.reason)
    assert record is not None
    body = record.body
    if info is not None and ends.ignores_result(message, info) and not info.store_errors_even_if_ignored:
        record = None
    return ends.End(Dead(b"", letter.reason, record), FAILURE, letter.reason, body, links.after_failure(message))


def tell(death: wire.Death, held: Held, end: ends.End) -> None:
    """Writes the log line: which task, what happened to it, and what happens next."""
    level = logging.INFO if death.why in ("shutdown", "revoked") else logging.ERROR
    log.log(
        level,
        "task %s in child %d (pid %d): %s; %s",
        _HAPPENED.get(death.why, "lost"),
        death.slot,
        death.pid,
        _cause(death, end),
        follows(held, end),
        extra=held.fields,
    )


_HAPPENED = {
    "time_limit": "killed at its time limit",
    "memory_limit": "killed at its memory limit",
    "shutdown": "ended by the shutdown",
    "revoked": "revoked while it ran",
}


def _cause(death: wire.Death, end: ends.End) -> str:
    if death.why in ("time_limit", "memory_limit") and death.aimed:
        return end.reason or death.cause
    return f"{death.cause} after it had started"


def follows(held: Held, end: ends.End) -> str:
    """Returns what happens next, for the log."""
    settlement = end.settlement
    if isinstance(settlement, Release):
        if settlement.counts == "crash":
            return f"it runs again (crash {held.crashes + 1})"
        return "it goes back to its queue, nothing counted"
    if isinstance(settlement, Dead):
        return f"it is {end.state} and a dead letter: {settlement.reason}"
    return f"it is {end.state}"
