"""How a task ends other than by its function: one place that says what the broker is told and what is recorded.

Pure functions of the message's header, the delivery and the task's options; used by the dispatcher for what never
reaches a child and for what a child's death left behind, and by `engine.app.execute`.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from engine.app import clock, failures, links
from engine.app.wire import TaskInfo
from engine.contract.message import Envelope, Message
from engine.contract.results import FAILURE, REVOKED, Body, Failure, Record
from engine.contract.transport import Ack, Dead, Found, Release, Settlement
from engine.errors import (
    MemoryLimitExceeded,
    MessageError,
    NotRegistered,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)

_encode = msgspec.json.Encoder().encode


class Held(Protocol):
    """A delivery in hand: `engine.contract.Delivery`, or a child's run. An empty ``claim`` was acknowledged before."""

    @property
    def claim(self) -> bytes: ...
    @property
    def deliveries(self) -> int: ...
    @property
    def crashes(self) -> int: ...


class End(msgspec.Struct, frozen=True):
    """What an end means: what to tell the broker (with the record to store), and what else follows."""

    settlement: Settlement
    """With an empty claim only its record is stored."""
    state: str = ""
    """The state the task is in now; "" when no state is written (it goes back to the broker)."""
    reason: str | None = None
    """One line for logs and events."""
    body: bytes = b""
    """Of the record, also when the record is not kept: the hooks of the task want it."""
    publishes: list[Envelope] = []
    """Publish before settling."""


def shutdown(message: Message, held: Held, info: TaskInfo | None, *, worker: str = "") -> End:
    """It was interrupted by a shutdown: given back uncounted, or lost if it was acknowledged before."""
    if held.claim:
        return End(Release(held.claim), reason="shutdown")
    return failed(message, held, info, WorkerLostError("shutdown"), worker=worker)


def lost(message: Message, held: Held, info: TaskInfo | None, cause: str, max_crashes: int, *, worker: str = "") -> End:
    """The process that ran it died of ``cause``. It runs again at once; at the ``max_crashes``-th time, or when it was
    acknowledged before, it ends FAILURE (and becomes a dead letter)."""
    error = WorkerLostError(cause)
    if not held.claim:
        return failed(message, held, info, error, worker=worker)
    crashes = held.crashes + 1
    if crashes < max_crashes:
        return End(Release(held.claim, counts="crash"), reason=cause)
    end = failed(message, held, info, error, worker=worker, notes={"crashes": crashes})
    reason = f"crash limit: its process died {crashes} times, at last of {cause}"
    return msgspec.structs.replace(end, settlement=Dead(held.claim, reason, end.settlement.record, crashed=True))


def limit(
    message: Message,
    held: Held,
    info: TaskInfo | None,
    error: TimeLimitExceeded | MemoryLimitExceeded,
    *,
    worker: str = "",
    runtime: float | None = None,
    stack: str | None = None,
    soft_raised: bool = False,
) -> End:
    """It was killed at a limit. ``stack`` is where it was when its soft limit was raised."""
    notes = {"soft_limit": "raised, but the task went on"} if soft_raised else None
    return failed(message, held, info, error, worker=worker, runtime=runtime, traceback=stack, notes=notes)


def expired(message: Message, held: Held, info: TaskInfo | None = None) -> End:
    """It did not start before its ``expires``."""
    return _revoked(message, held, "expired")


def revoked(message: Message, held: Held, info: TaskInfo | None = None) -> End:
    """Somebody revoked it, before it started or while it ran."""
    return _revoked(message, held, "revoked")


def unknown_task(message: Message, held: Held) -> End:
    """No task of that name is registered. The reason starts with "unknown task": a worker that knows it replays it."""
    error = NotRegistered(
        f"no task is called {message.task!r} in the worker that fetched it: does its app import the module, or does "
        "[engine] include name it?"
    )
    return _dead(message, held, error, f"unknown task {message.task}")


def refused(message: Message, held: Held, error: Exception) -> End:
    """It was read but cannot be run here: too large, or a serializer that is not accepted. A dead letter."""
    return _dead(message, held, error, failures.summary(failures.describe(error)))


def malformed(held: Held, reason: str) -> End:
    """It could not be read: a dead letter, and no record, as nobody knows whose."""
    return End(Dead(held.claim, failures.cut(reason, 1000)), reason=reason)


def failed(
    message: Message,
    held: Held,
    info: TaskInfo | None,
    error: BaseException,
    *,
    worker: str = "",
    runtime: float | None = None,
    traceback: str | None = None,
    notes: dict[str, Any] | None = None,
    children: list[str] | None = None,
    emitted: bool = True,
) -> End:
    """It ended FAILURE with ``error``: acknowledged, or a dead letter when ``acks_on_failure_or_timeout`` is off.
    ``emitted``: may a record of this run be there already, which must go if none is kept?"""
    options = info or _UNKNOWN
    failure = failures.describe(error)
    body = body_of(message, FAILURE, failure, worker, runtime, traceback, notes, children)
    record: Record | None = record_of(message, held, FAILURE, body)
    if ignores_result(message, options) and not options.store_errors_even_if_ignored:
        record = nothing_kept(message, held) if emitted else None
    reason = failures.summary(failure)
    settlement: Settlement = Ack(held.claim, record)
    if held.claim and not options.acks_on_failure_or_timeout:
        settlement = Dead(held.claim, reason, record)
    return End(settlement, FAILURE, reason, body, links.after_failure(message))


def crash_record(message: Message, deliveries: int, reason: str) -> Record:
    """Returns the FAILURE record of a message that a takeover made a dead letter (`TakenOver.dead`)."""
    body = body_of(message, FAILURE, failures.describe(WorkerLostError(reason)))
    return Record(message.id, FAILURE, message.sent, message.retries, deliveries, body, final=True)


def removed(found: Found) -> Record | None:
    """Returns the REVOKED record of a message that ``Transport.revoke`` took out of its queue; None for one that cannot
    be read."""
    try:
        message = Message.decode(found.body)
    except MessageError:
        return None
    body = body_of(message, REVOKED, failures.describe(TaskRevokedError("revoked")))
    return Record(message.id, REVOKED, message.sent, message.retries, _LAST, body, final=True)


def body_of(
    message: Message,
    state: str,
    failure: Failure,
    worker: str = "",
    runtime: float | None = None,
    traceback: str | None = None,
    notes: dict[str, Any] | None = None,
    children: list[str] | None = None,
) -> bytes:
    """Returns the body of a record that holds an exception."""
    return _encode(
        Body(
            state=state,
            task=message.task,
            date=clock.now(),
            failure=failure,
            traceback=traceback,
            retries=message.retries,
            worker=worker,
            runtime=runtime,
            children=children or None,
            parent=message.parent,
            root=message.root,
            notes=notes,
        )
    )


def record_of(message: Message, held: Held, state: str, body: bytes, *, final: bool = True) -> Record:
    """Returns the record of a state of this run."""
    return Record(message.id, state, message.sent, message.retries, held.deliveries, body, final)


def nothing_kept(message: Message, held: Held) -> Record:
    """Returns the record that removes what this run wrote (of a task whose result is ignored)."""
    return Record(message.id, "", message.sent, message.retries, held.deliveries, b"", final=True, keep=False)


def ignores_result(message: Message, info: TaskInfo) -> bool:
    """Is the result not kept? The call says, else the task's options."""
    return info.ignore_result if message.ignore_result is None else message.ignore_result


def _revoked(message: Message, held: Held, reason: str) -> End:
    body = body_of(message, REVOKED, failures.describe(TaskRevokedError(reason)))
    record = record_of(message, held, REVOKED, body)
    return End(Ack(held.claim, record), REVOKED, reason, body)


def _dead(message: Message, held: Held, error: Exception, reason: str) -> End:
    body = body_of(message, FAILURE, failures.describe(error))
    record = record_of(message, held, FAILURE, body)
    return End(Dead(held.claim, reason, record), FAILURE, reason, body, links.after_failure(message))


_UNKNOWN = TaskInfo("")
_LAST = 2**31 - 1
"""Deliveries of a record that nothing else of its run may overwrite, as its message is gone."""
