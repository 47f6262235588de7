"""Runs a task in the process of its caller, through the code that a worker's child runs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from engine.app.execute import execute
from engine.app.results import EagerResult
from engine.app.run import EagerRun
from engine.app.task import Task
from engine.app.wire import Outcome
from engine.contract.message import Envelope, Message
from engine.contract.results import PENDING, Record
from engine.contract.transport import Again

if TYPE_CHECKING:
    from engine.app.app import Engine


class Watch(Protocol):
    """Who watches an app's eager runs (``Engine.eager_watch``) and decides how time passes in them."""

    def call(self, message: Message) -> AbstractContextManager[None]:
        """Returns the context in which a message is run to its end, with its retries and links."""

    def run(self, message: Message, run: EagerRun, execute: Callable[[], Outcome]) -> Outcome:
        """Called for each run, retries included; returns what ``execute()`` returns."""


def run_eagerly(app: Engine, task: Task[..., Any], message: Message) -> EagerResult[Any]:
    """Runs a message to its end, retries at once, then what is linked to it. Never raises what the task raises.

    Nothing expires, unless the app's ``eager_watch`` lets time pass.
    """
    if app.eager_watch is None:
        return _run_to_its_end(app, task, message)
    with app.eager_watch.call(message):
        return _run_to_its_end(app, task, message)


def _run_to_its_end(app: Engine, task: Task[..., Any], message: Message) -> EagerResult[Any]:
    run = EagerRun(message.queue, socket.gethostname())
    while True:
        outcome = _run_once(app, task, message, run)
        if not isinstance(outcome.settlement, Again):
            break
        message = Message.decode(outcome.settlement.envelope.body)
        run.error = None
    for envelope in outcome.publishes:
        _follow(app, envelope)
    record = outcome.settlement.record or _last(run, message)
    return EagerResult(record, app, task.parameters.convert_result, run.error)


def _run_once(app: Engine, task: Task[..., Any], message: Message, run: EagerRun) -> Outcome:
    if app.eager_watch is not None:
        return app.eager_watch.run(message, run, lambda: execute(app, task, message, run))
    message.expires = None
    return execute(app, task, message, run)


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
