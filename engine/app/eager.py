"""Runs a task in the process of its caller, through the code that a worker's child runs."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from engine.app.execute import execute
from engine.app.results import EagerResult
from engine.app.run import EagerRun
from engine.app.task import Task
from engine.contract.message import Envelope, Message
from engine.contract.results import PENDING, Record
from engine.contract.transport import Again

if TYPE_CHECKING:
    from engine.app.app import Engine


def run_eagerly(app: Engine, task: Task[..., Any], message: Message) -> EagerResult[Any]:
    """Runs a message to its end, retries at once, then what is linked to it. Never raises what the task raises."""
    run = EagerRun(message.queue, socket.gethostname())
    while True:
        message.expires = None
        outcome = execute(app, task, message, run)
        if not isinstance(outcome.settlement, Again):
            break
        message = Message.decode(outcome.settlement.envelope.body)
        run.error = None
    for envelope in outcome.publishes:
        _follow(app, envelope)
    record = outcome.settlement.record or _last(run, message)
    return EagerResult(record, app, task.parameters.convert_result, run.error)


def _follow(app: Engine, envelope: Envelope) -> None:
    message = Message.decode(envelope.body)
    task = app.find(message.task)
    if task is not None:
        run_eagerly(app, task, message)


def _last(run: EagerRun, message: Message) -> Record:
    """What is known of a run that recorded no end (`Ignore`): the last state that it wrote itself."""
    if run.records:
        return run.records[-1]
    body = b'{"state":"PENDING","task":"","date":0}'
    return Record(message.id, PENDING, message.sent, message.retries, run.deliveries, body)
