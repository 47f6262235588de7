"""Runs one message: the code that children and ``.apply()`` share. From the raw arguments to the outcome, whatever the
task does."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from engine.app import clock, codecs, ends, failures, links, retry
from engine.app.context import Request, current
from engine.app.failures import ExceptionInfo
from engine.app.forks import after_fork
from engine.app.progress import emit_state
from engine.app.run import EagerRun, Run
from engine.app.task import Task
from engine.app.wire import Outcome
from engine.contract.message import Envelope, Message
from engine.contract.results import FAILURE, RETRY, REVOKED, STARTED, SUCCESS, Body, Record
from engine.contract.transport import Ack, Again, Dead, Release, Settlement
from engine.errors import (
    ControlFlow,
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Retry,
    SerializationError,
    WorkerLostError,
)

if TYPE_CHECKING:
    from engine.app.app import Engine

log = logging.getLogger("engine.task")
REQUEUE_AFTER = 1.0
"""Seconds after which a message that was rejected with ``requeue=True`` is at the end of its queue."""
LOGGED_MAX = 8 * 1024
"""Most characters of a traceback that are logged; the record holds more of it."""
_encode = msgspec.json.Encoder().encode
_HARMLESS = (Exception, ControlFlow, SystemExit, KeyboardInterrupt)
"""What a task may raise without its child being replaced."""


def execute(app: Engine, task: Task[..., Any], message: Message, run: Run) -> Outcome:
    """Runs a message and returns how it ended. Never raises.

    Called in the child's (or the caller's) main thread; ``run`` says for which delivery. A process that the task forked
    and that comes back here ends at once.
    """
    started = time.monotonic()
    pid = _process.pid
    request = Request(task, message, run, current.get())
    run.tainted = None
    token = current.set(request)
    try:
        outcome = _Execution(app, task, message, run, request, started).outcome()
    except BaseException as error:
        log.critical("%s[%s]: the engine failed to run it", task.name, message.id, exc_info=True)
        run.tainted = "the engine failed to run a task"
        end = ends.failed(message, run, task.info, error, worker=run.worker)
        outcome = _outcome_of(task, message, run, end, started)
    finally:
        current.reset(token)
    if task.hooks:
        _end_copies(pid)
    return outcome


def run_hooks(app: Engine, task: Task[..., Any], message: Message, state: str, body: bytes, run: Run) -> None:
    """Runs the hooks for a task that ended (``state``, record ``body``) by the death of its child. Never raises."""
    request = Request(task, message, run, current.get())
    token = current.set(request)
    try:
        request.args, request.kwargs = task.decode(message, run.is_eager)
        found = msgspec.json.decode(body, type=Body)
        error = failures.rebuild(found)
        info = ExceptionInfo(error, found.traceback or "")
        execution = _Execution(app, task, message, run, request, time.monotonic())
        run.invoke(lambda: execution.failure_hooks(state, error, info))
    except BaseException:
        log.exception("%s[%s]: its hooks could not be run", task.name, message.id)
    finally:
        current.reset(token)


class _Execution:
    """One message being run."""

    __slots__ = ("app", "info", "message", "request", "run", "started", "task")

    def __init__(
        self, app: Engine, task: Task[..., Any], message: Message, run: Run, request: Request, started: float
    ) -> None:
        self.app = app
        self.task = task
        self.message = message
        self.run = run
        self.request = request
        self.started = started
        self.info = task.info

    def outcome(self) -> Outcome:
        task, message, run, request = self.task, self.message, self.run, self.request
        if message.expires is not None and message.expires <= clock.now():
            return self._end(ends.expired(message, run, self.info), started=False)
        try:
            request.args, request.kwargs = task.decode(message, run.is_eager)
        except Exception as error:  # noqa: BLE001 - reading arguments may run the user's code (pickle, pydantic)
            return self._unreadable(error)
        if self.info.track_started:
            emit_state(self.request, STARTED, {"pid": os.getpid(), "hostname": run.hostname})
        pid = _process.pid
        ended: BaseException | None = None
        value = None
        try:
            value = run.invoke(task.prepare(request, run))
        except BaseException as raised:  # noqa: BLE001 - every way to end is told apart below
            ended = raised
        _end_copies(pid)
        if run.interrupted is not None:
            return self._interrupted(run.interrupted)
        return self._returned(value) if ended is None else self._raised(ended)

    def _returned(self, value: Any) -> Outcome:
        if (plan := self.request.plan) is not None:
            if plan.raised:
                log.warning("%s[%s] caught Retry and returned: the retry wins", self.task.name, self.message.id)
            return self._again(plan)
        message, run, task = self.message, self.run, self.task
        runtime = time.monotonic() - self.started
        record: Record | None
        publishes: list[Envelope] = []
        try:
            if message.link:
                publishes = links.after_success(message, value)
            if run.is_eager or not ends.ignores_result(message, self.info):
                record = self._success_record(value, runtime, publishes)
            else:
                record = self._removal()
        except SerializationError as error:
            return self._unserialisable(error)
        if task.hooks:
            self._hook("on_success", value, message.id, self.request.args, self.request.kwargs)
            self._after_return(SUCCESS, value, None)
        return Outcome(
            run.sequence,
            run.number,
            message.id,
            task.name,
            run.queue,
            Ack(run.claim, record),
            SUCCESS,
            message.retries,
            run.deliveries,
            runtime,
            True,
            None,
            publishes,
            _process.pid,
        )

    def _success_record(self, value: Any, runtime: float, links: list[Envelope]) -> Record:
        message, run = self.message, self.run
        data = codecs.encode(codecs.find(message.serializer), value)
        if len(data) > self.task.max_result:
            raise SerializationError(
                f"the result has {len(data):,} bytes, and max_result allows {self.task.max_result:,}: "
                "store it elsewhere and return a path, a key or an id"
            )
        children = self.request.children
        if links:
            children = [*children, *(envelope.id for envelope in links)]
        body = _encode(
            Body(
                SUCCESS,
                self.task.name,
                clock.now(),
                msgspec.Raw(data),
                message.serializer,
                None,
                None,
                message.retries,
                run.worker,
                runtime,
                children or None,
                message.parent,
                message.root,
            )
        )
        return Record(message.id, SUCCESS, message.sent, message.retries, run.deliveries, body, True)

    def _raised(self, error: BaseException) -> Outcome:
        if isinstance(error, Retry):
            return self._retried(error)
        if isinstance(error, Ignore):
            return self._settled(Ack(self.run.claim, self._removal()), "", "ignored")
        if isinstance(error, Reject):
            return self._rejected(error)
        if self.task.retries_on(error):
            plan = self.task.plan_automatic(self.request, error)
            if plan is not None:
                return self._again(plan)
        if not isinstance(error, _HARMLESS):
            self.run.tainted = f"raised {type(error).__name__}"
        return self._failed(error)

    def _retried(self, error: Retry) -> Outcome:
        plan = self.request.plan
        if plan is None:
            # Raised by hand, not by retry(): the same, with the task's defaults.
            plan = self.task.plan_automatic(self.request, error)
        if plan is None:
            return self._failed(MaxRetriesExceededError(f"{self.task.name} was retried {self.message.retries} times"))
        return self._again(plan)

    def _again(self, plan: retry.Plan) -> Outcome:
        message, run = self.message, self.run
        error = plan.error or Retry(f"retry {plan.message.retries}")
        text = failures.traceback_text(error) if plan.error is not None else None
        failure = failures.describe(error)
        record = self._removal()
        if not ends.ignores_result(message, self.info) or run.is_eager:
            runtime = time.monotonic() - self.started
            body = ends.body_of(message, RETRY, failure, run.worker, runtime, text, None, self.request.children)
            record = ends.record_of(message, run, RETRY, body, final=False)
        delay = max(0.0, (plan.message.eta or 0.0) - clock.now())
        reason = failures.summary(failure)
        log.info("%s[%s] is retried in %.3g s: %s", self.task.name, message.id, delay, reason)
        if self.task.hooks:
            info = ExceptionInfo(error, text or "")
            self._hook("on_retry", error, message.id, self.request.args, self.request.kwargs, info)
            self._after_return(RETRY, error, info)
        return self._settled(Again(run.claim, plan.message.envelope(), record), RETRY, reason)

    def _rejected(self, error: Reject) -> Outcome:
        run, message = self.run, self.message
        reason = failures.cut(error.reason, 1000)
        if not error.requeue:
            end = self._failure(error)
            return self._end(msgspec.structs.replace(end, settlement=Dead(run.claim, reason, _record(end))))
        at = clock.now() + REQUEUE_AFTER
        if run.claim:
            return self._settled(Release(run.claim, at, "delivery"), "", f"rejected: {reason}")
        envelope = msgspec.structs.replace(message, eta=at).envelope()
        return self._settled(Again(b"", envelope), "", f"rejected: {reason}")

    def _failed(self, error: BaseException) -> Outcome:
        return self._end(self._failure(error))

    def _failure(self, error: BaseException, *, traced: bool = True) -> ends.End:
        """Tells log and hooks of a failure; returns its end. Without ``traced`` the stack is left out: it would show
        the engine's code only."""
        message, run = self.message, self.run
        text = failures.traceback_text(error) if traced else failures.sentence(error)
        if isinstance(run, EagerRun):
            run.error = error
        self._log_failure(error, text)
        self.failure_hooks(FAILURE, error, ExceptionInfo(error, text))
        return ends.failed(
            message,
            run,
            self.info,
            error,
            worker=run.worker,
            runtime=time.monotonic() - self.started,
            traceback=text,
            children=self.request.children,
            emitted=self.request.emitted or run.deliveries > 1,
        )

    def _unserialisable(self, error: SerializationError) -> Outcome:
        """The run was good but its result cannot be kept: running it again would not help, so it is acknowledged."""
        end = self._failure(error)
        return self._end(msgspec.structs.replace(end, settlement=Ack(self.run.claim, _record(end))))

    def _unreadable(self, error: Exception) -> Outcome:
        """The arguments do not decode, or do not fit the function."""
        end = self._failure(error, traced=False)
        reason = f"arguments do not fit: {end.reason}"
        end = msgspec.structs.replace(end, settlement=Dead(self.run.claim, reason, _record(end)), reason=reason)
        return self._end(end, started=False)

    def _interrupted(self, reason: str) -> Outcome:
        if reason == "revoked":
            end = ends.revoked(self.message, self.run, self.info)
            self._after_return(REVOKED, None, None)
        else:
            end = ends.shutdown(self.message, self.run, self.info, worker=self.run.worker)
            if isinstance(end.settlement, Release):
                settlement = msgspec.structs.replace(end.settlement, record=self._removal())
                end = msgspec.structs.replace(end, settlement=settlement)
        if end.state == FAILURE:
            lost = WorkerLostError("shutdown")
            self.failure_hooks(FAILURE, lost, ExceptionInfo(lost, ""))
        log.info("%s[%s] was interrupted: %s", self.task.name, self.message.id, reason)
        return self._end(end)

    def _removal(self) -> Record | None:
        """What removes the states that the task itself wrote, in this run or an earlier delivery, if its result is not
        to be kept."""
        if not ends.ignores_result(self.message, self.info) or self.run.is_eager:
            return None
        is_written = self.request.emitted or self.run.deliveries > 1
        return ends.nothing_kept(self.message, self.run) if is_written else None

    def _log_failure(self, error: BaseException, text: str) -> None:
        task, message = self.task, self.message
        if isinstance(error, task.code.throws):
            log.info("%s[%s] failed as expected: %s", task.name, message.id, failures.summary(failures.describe(error)))
        elif log.isEnabledFor(logging.ERROR):
            which, info = (task.name, message.id), failures.exc_info(error)
            record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s[%s] failed", which, info)
            record.exc_text = failures.cut(text.rstrip(), LOGGED_MAX)  # formatters take it: it is neither huge nor slow
            log.handle(record)

    def failure_hooks(self, state: str, error: BaseException, info: ExceptionInfo) -> None:
        """Runs ``on_failure`` and ``after_return``."""
        if self.task.hooks:
            self._hook("on_failure", error, self.message.id, self.request.args, self.request.kwargs, info)
            self._after_return(state, error, info)

    def _after_return(self, state: str, value: Any, info: ExceptionInfo | None) -> None:
        self._hook("after_return", state, value, self.message.id, self.request.args, self.request.kwargs, info)

    def _hook(self, name: str, *args: Any) -> None:
        if name not in self.task.hooks:
            return
        try:
            getattr(self.task, name)(*args)
        except BaseException:
            # The task has ended: what its hook raises cannot change how.
            log.exception("%s[%s]: its %s raised", self.task.name, self.message.id, name)

    def _end(self, end: ends.End, started: bool = True) -> Outcome:
        return _outcome_of(self.task, self.message, self.run, end, self.started, started)

    def _settled(self, settlement: Settlement, state: str, reason: str) -> Outcome:
        return self._end(ends.End(settlement, state, reason))


class _Process:
    """The id of this process, in a forked one its own: a system call each time would be a twentieth of a run."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.pid = os.getpid()


_process = _Process()
after_fork(_process.renew)


def _end_copies(pid: int) -> None:
    """Ends a process that a task or hook forked and that came back into the engine: only the child itself reports."""
    if _process.pid != pid:
        os._exit(0)


def _record(end: ends.End) -> Record | None:
    return end.settlement.record


def _outcome_of(
    task: Task[..., Any], message: Message, run: Run, end: ends.End, started_at: float, started: bool = True
) -> Outcome:
    return Outcome(
        sequence=run.sequence,
        run=run.number,
        id=message.id,
        task=task.name,
        queue=run.queue,
        settlement=end.settlement,
        state=end.state,
        retries=message.retries,
        deliveries=run.deliveries,
        runtime=time.monotonic() - started_at,
        started=started,
        reason=end.reason,
        publishes=end.publishes,
        pid=_process.pid if started else None,
    )
