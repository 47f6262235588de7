"""Runs in a child: takes a task, runs it, reports; one at a time, until there are no more.

It has no broker connection. Its hand-off socket is shared with all idle children of its generation (the kernel gives
each packet to one of them), its link to the dispatcher is its slot's own.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import socket
import sys
import time
from typing import Any

import msgspec
from setproctitle import setproctitle

from engine.app import ends, misfits, wire
from engine.app.app import Engine
from engine.app.discovery import load_app
from engine.app.execute import execute, run_hooks
from engine.app.relay import RelayResults, RelayTransport, SlotCall
from engine.app.task import Task
from engine.contract.message import Message
from engine.contract.results import SUCCESS
from engine.contract.transport import Ack, Release, Settlement
from engine.errors import ConfigError, MessageError
from engine.runtime import board as words
from engine.runtime import processes, signals, spawn
from engine.runtime.child import template
from engine.runtime.child.child_run import ChildRun
from engine.runtime.child.template import Birth
from engine.runtime.child.tidy import Tidy, out_of_files

log = logging.getLogger("engine.child")
LONGEST_LIMIT = 3e9
"""Seconds: 95 years. A longer time limit does not fit the board, and means the same."""
HOOKS_LIMIT = 60.0
"""Seconds that the hooks of a task whose child died may take, when the task has no time limit of its own."""
STOP_LIMIT = 10.0
"""Seconds that ``on_child_stop`` hooks may take before the child is killed."""


def main(birth: Birth, index: int, number: int, middle: int) -> int:
    """Runs a child in slot ``index``, the engine's ``number``-th; returns its exit status."""
    slot = birth.board.slot(index)
    spawn.await_adoption(middle, birth.supervisor, lambda: slot[words.OWNER] == os.getpid())
    slot[words.SPAWN] = number
    slot[words.STATE] = words.STARTING
    link = _settle_in(birth, index)
    try:
        app = _app(birth, link)
        call = SlotCall(link, number)
        app.connect_with(RelayTransport(call), RelayResults(call))
        app.child_start()
    except ConfigError as error:
        log.critical("%s", error)
        return 78
    except BaseException as error:
        log.critical("a child could not start: %s: %s", type(error).__name__, error, exc_info=True)
        return 78
    child = Child(birth, app, slot, link)
    child.work()
    slot[words.STATE] = words.LEAVING
    slot.set_deadlines(0, time.monotonic_ns() + int(STOP_LIMIT * 1e9), int(STOP_LIMIT * 1000), 0)
    app.child_stop()
    return 0


def _settle_in(birth: Birth, index: int) -> socket.socket:
    """Keeps of the template's sockets only this slot's own; returns that."""
    link = birth.outcomes[index]
    for other in birth.outcomes:
        if other is not link:
            other.close()
    spawn.null_stdin()
    spawn.reseed()
    _let_others_finish()
    _die_first_when_memory_ends()
    faulthandler.enable()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    setproctitle(f"engine: child {index} ({birth.settings.engine.name})")
    os.register_at_fork(after_in_child=lambda: _let_go(birth, link))
    return link


def _let_go(birth: Birth, link: socket.socket) -> None:
    """In a process that a task forked: the engine's sockets and signals are none of its business."""
    signals.restore_defaults()
    link.close()
    birth.handoff.close()
    try:
        os.close(birth.board.bell)
    except OSError:
        return  # a fork of a fork: closed before


def _let_others_finish() -> None:
    """Schedules this process as batch work: its share of the CPU is the same, but when it wakes for a task it does not
    take the CPU from who runs there, such as the dispatcher, which is about to hand out more (sched(7)). Who started
    the engine with another policy than the ordinary one keeps it. What a task starts inherits it."""
    try:
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        log.debug("cannot schedule as batch work: %s", error)


def _die_first_when_memory_ends() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("300")
    except OSError as error:
        log.debug("cannot raise oom_score_adj: %s", error)


def _app(birth: Birth, link: socket.socket) -> Engine:
    if birth.app is not None:
        return birth.app
    app = load_app(birth.settings)
    misfits.refuse(birth.settings, app)
    template.forget_environment()
    wire.post(link, wire.encode(wire.Registry(birth.generation, app.task_infos())))
    return app


class Child:
    """The loop of one child."""

    def __init__(self, birth: Birth, app: Engine, slot: words.Slot, link: socket.socket) -> None:
        settings = birth.settings.worker
        self._app = app
        self._board = birth.board
        self._slot = slot
        self._link = link
        self._handoff = birth.handoff
        self._run = ChildRun(slot, link, hostname=birth.worker.host, worker=birth.worker.id)
        self._index = {info.name: number for number, info in enumerate(app.task_infos())}
        self._oldest_ns = int(birth.worker.dead_after * 1e9 / 2)
        self._tasks_left = _drawn(settings.max_tasks_per_child)
        self._max_memory = settings.max_memory_per_child
        self._tidy = Tidy()
        self._in_hand: Message | None = None
        self._failed = False
        """Did the last task end otherwise than it should?"""
        self._make_record = logging.getLogRecordFactory()
        logging.setLogRecordFactory(self._log_record)

    def work(self) -> None:
        """Takes tasks until the hand-off ends or the child is to be replaced."""
        slot = self._slot
        slot[words.BASE_MEMORY] = processes.resident(os.getpid())
        self._run.listen()
        self._tidy.remember()
        slot.wait()
        self._board.ring()
        while data := wire.receive(self._handoff):
            self._take(wire.decode(data))
            if reason := self._done():
                log.info("child %d is replaced: %s", slot.index, reason)
                return
            slot.wait()

    def _take(self, handout: wire.Handout) -> None:
        slot = self._slot
        age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - handout.sent_ns
        if handout.claim and age > self._oldest_ns:
            self._report(_unstarted(handout))
            return
        try:
            message = Message.decode(handout.body)
        except MessageError as error:
            end = ends.malformed(handout, str(error))
            self._report(_from_end(handout, None, end))
            return
        task = self._app.find(message.task)
        if task is None:
            self._report(_from_end(handout, message, ends.unknown_task(message, handout)))
            return
        index = self._index.get(task.name, -1)
        number = slot.begin(handout.sequence, handout.claim, message.id.encode(), index)
        self._in_hand = message
        self._execute(handout, message, task, number)
        self._in_hand = None

    def _execute(self, handout: wire.Handout, message: Message, task: Task[..., Any], number: int) -> None:
        run, slot = self._run, self._slot
        limits = task.limits(message)
        run.begin(handout, number, limits.soft_time_limit or 0.0)
        if handout.end is not None:
            hooks_limit = min(limits.time_limit or HOOKS_LIMIT, LONGEST_LIMIT)
            slot.set_deadlines(0, time.monotonic_ns() + int(hooks_limit * 1e9), int(hooks_limit * 1000), 0)
            run_hooks(self._app, task, message, handout.end[0], handout.end[1], run)
            self._report(_finished(handout, message))
            return
        now = time.monotonic_ns()
        soft = min(limits.soft_time_limit or 0.0, LONGEST_LIMIT)
        hard = min(limits.time_limit or 0.0, LONGEST_LIMIT)
        memory = limits.memory_limit
        if soft or hard or memory:
            slot.set_deadlines(
                now + int(soft * 1e9) if soft else 0,
                now + int(hard * 1e9) if hard else 0,
                int(hard * 1000) if hard else 0,
                int(memory or 0),
            )
        outcome = execute(self._app, task, message, run)
        self._failed = outcome.state != SUCCESS
        self._report(outcome)

    def _report(self, outcome: wire.Outcome) -> None:
        """Sends the outcome: the commit point of a run. Waiting for room does not count against its limits."""
        data = wire.encode(outcome)
        try:
            wire.post(self._link, data, wire.NOW)
        except BlockingIOError:
            self._slot.clear_deadlines()
            wire.post(self._link, data)
        self._slot.clear_deadlines()

    def _done(self) -> str | None:
        """Counts a task, and says why this child should be replaced, if it should."""
        slot = self._slot
        slot[words.TASKS_DONE] += 1
        if self._run.tainted:
            return self._run.tainted
        if problem := self._tidy.restore() or (self._failed and out_of_files()):
            return problem
        if self._tasks_left:
            self._tasks_left -= 1
            if not self._tasks_left:
                return f"{slot[words.TASKS_DONE]} tasks done"
        if self._max_memory:
            grown = processes.resident(os.getpid()) - slot[words.BASE_MEMORY]
            if grown > self._max_memory:
                return f"grown by {grown / 2**20:.0f} MiB"
        return None

    def _log_record(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make_record(*args, **kwargs)
        if self._in_hand is not None:
            record.task_id = self._in_hand.id
            record.task_name = self._in_hand.task
            record.child = self._slot.index
        return record


def _drawn(limit: int) -> int:
    """Draws the number of tasks after which a child is replaced: up to 10% fewer, so that not all go at once."""
    return limit - random.randint(0, limit // 10) if limit else 0


def _unstarted(handout: wire.Handout) -> wire.Outcome:
    """Given back: it was sent so long ago that the claim may be somebody else's by now."""
    return _not_run(handout, None, settlement=Release(handout.claim), reason="late")


def _finished(handout: wire.Handout, message: Message) -> wire.Outcome:
    """The hooks of a task whose child died have run."""
    return _not_run(handout, message, settlement=Ack(b""), reason="hooks")


def _from_end(handout: wire.Handout, message: Message | None, end: ends.End) -> wire.Outcome:
    """Ended before it began."""
    outcome = _not_run(handout, message, settlement=end.settlement, reason=end.reason)
    return msgspec.structs.replace(outcome, state=end.state, publishes=end.publishes)


def _not_run(
    handout: wire.Handout, message: Message | None, *, settlement: Settlement, reason: str | None
) -> wire.Outcome:
    return wire.Outcome(
        sequence=handout.sequence,
        run=0,
        id=message.id if message else "",
        task=message.task if message else "",
        queue=handout.queue,
        settlement=settlement,
        state="",
        retries=message.retries if message else 0,
        deliveries=handout.deliveries,
        runtime=0.0,
        started=False,
        reason=reason,
    )
