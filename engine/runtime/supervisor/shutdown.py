"""Runs in the supervisor: how an engine ends.

Drain: the dispatcher fetches no more and gives back what no child has begun; idle children see the end of the hand-off
and leave; running tasks have ``shutdown_timeout`` s. Then they are interrupted, and after a grace killed. A second
INT, or QUIT, goes straight to the interruption. When the last child is gone the dispatcher settles what is left.
"""

from __future__ import annotations

import logging
import math
import time
from enum import Enum

from engine.app.config.durations import brief
from engine.runtime import control
from engine.runtime.board import RUN, SHUTDOWN
from engine.runtime.processes import Exit
from engine.runtime.supervisor.children import Sentence, Stage
from engine.runtime.supervisor.fleet import Fleet
from engine.runtime.supervisor.generations import Phase

log = logging.getLogger("engine.supervisor")
GRACE = 5.0
"""Seconds between an interruption and the kill."""
FINISH_TIMEOUT = 20.0
"""Seconds that the dispatcher has to settle what is left after the last child is gone."""


class Step(Enum):
    """How far the shutdown is."""

    UP = "up"
    DRAINING = "draining"
    INTERRUPTING = "interrupting"
    FINISHING = "finishing"


class Shutdown:
    """The end of an engine, and the kills that follow an interruption."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.step = Step.UP
        self._deadline = math.inf
        self._status = 0
        self._revoked: dict[int, tuple[int, float]] = {}

    def drain(self, why: str) -> None:
        """Begins a drain, if nothing stronger has begun."""
        self._drain(why, self._fleet.config.settings.worker.shutdown_timeout)

    def _drain(self, why: str, timeout: float) -> None:
        if self._fleet.draining:
            return
        running = len(self._fleet.enforcer.running())
        if running and timeout <= 0:
            log.info("%s: draining; %d running, to be interrupted now", why, running)
        elif running:
            log.info("%s: draining; %d running, with %s to finish (INT again: at once)", why, running, brief(timeout))
        else:
            log.info("%s: draining; nothing is running", why)
        self._begin(timeout)

    def _begin(self, timeout: float) -> None:
        self._fleet.draining = True
        self.step, self._deadline = Step.DRAINING, time.monotonic() + timeout
        self._fleet.dispatcher.tell(control.Drain())
        for generation in self._fleet.generations:
            if generation.phase in (Phase.LOADING, Phase.TRIAL):
                generation.shut()

    def quick(self, why: str) -> None:
        """Ends the waiting: running tasks are interrupted now."""
        self._drain(why, 0.0)
        if self.step is Step.DRAINING:
            self._deadline = time.monotonic()

    def interrupt(self) -> None:
        """INT: the first drains, the second is quick."""
        if self._fleet.draining:
            self.quick("second INT")
        else:
            self.drain("INT")

    def fail(self, status: int, line: str) -> None:
        """Ends an engine that cannot go on: logs the line, and exits with ``status`` when all is down."""
        if self._status not in (0, 1):
            return
        log.critical("%s", line)
        self._status = status
        if self._fleet.draining:
            self.quick("giving up")
        else:
            self._begin(0.0)

    def dispatcher_ended(self, end: Exit) -> None:
        """The dispatcher has exited. If that is how it finished it is not started again; otherwise the next one
        finishes what it left."""
        if self.step is Step.FINISHING and end.status in (0, 1):
            self._fleet.dispatcher.wanted = False
            self._status = self._status or end.status

    def revoke(self, slot: int, run: int) -> None:
        """Notes that a revoked task was interrupted, to kill it if it does not end."""
        self._revoked[slot] = (run, time.monotonic() + GRACE)

    def next_event(self, now: float) -> float:
        """Returns when `advance` has something to do: a monotonic time."""
        return min([self._deadline, *(at for _, at in self._revoked.values())])

    def advance(self, now: float) -> int | None:
        """Moves on; returns the exit status when all processes are gone."""
        self._kill_revoked(now)
        if self.step is Step.DRAINING and now >= self._deadline:
            self._interrupt_all(now)
        if self.step in (Step.DRAINING, Step.INTERRUPTING) and self._childless():
            self._finish(now)
        elif self.step is Step.INTERRUPTING:
            self._press(now)
        if self.step is Step.FINISHING:
            return self._await_dispatcher(now)
        return None

    def _childless(self) -> bool:
        pool = self._fleet.pool
        for child in pool.children:
            if child.stage is Stage.ORDERED and self._is_gone(child.template):
                pool.empty(child)
        return all(child.stage is Stage.EMPTY for child in pool.children)

    def _is_gone(self, template: int) -> bool:
        generation = self._fleet.generation(template)
        return generation is None or not generation.template.pid

    def _interrupt_all(self, now: float) -> None:
        self.step, self._deadline = Step.INTERRUPTING, now + GRACE
        for generation in self._fleet.generations:
            generation.shut()
        running = self._fleet.enforcer.running()
        for child, _ in running:
            log.warning("interrupting child %d (pid %d) at %s", child.slot, child.pid, self._fleet.task_of(child))
        self._press(now)

    def _press(self, now: float) -> None:
        """Interrupts what runs; kills it when the grace is over."""
        fleet = self._fleet
        for child, run in fleet.enforcer.running():
            fleet.enforcer.ask(child.slot, run, SHUTDOWN)
        if now < self._deadline:
            return
        self._deadline = now + GRACE
        doomed = [child for child in fleet.pool.living() if child.sentence is None]
        if doomed:
            self._status = self._status or 1
            boards = {child.slot: fleet.board.slot(child.slot)[RUN] for child in doomed}
            fleet.enforcer.execute({slot: Sentence("shutdown", number) for slot, number in boards.items()})

    def _finish(self, now: float) -> None:
        self.step, self._deadline = Step.FINISHING, now + FINISH_TIMEOUT
        for generation in self._fleet.generations:
            generation.template.dismiss()
        if self._fleet.booted and not self._fleet.dispatcher.backoff.hopeless:
            self._fleet.dispatcher.tell(control.Finish())
        else:
            self._fleet.dispatcher.dismiss()

    def _await_dispatcher(self, now: float) -> int | None:
        dispatcher = self._fleet.dispatcher
        if dispatcher.wanted and now >= self._deadline:
            log.error("the dispatcher did not settle what was left in %g s: killing it", FINISH_TIMEOUT)
            self._status = self._status or 1
            dispatcher.dismiss()
            self._deadline = math.inf
        templates = any(generation.template.pid for generation in self._fleet.generations)
        if dispatcher.pid or dispatcher.wanted or templates:
            return None
        if self._status in (0, 1):
            log.info("stopped")
        return self._status

    def _kill_revoked(self, now: float) -> None:
        fleet = self._fleet
        for slot, (run, at) in list(self._revoked.items()):
            running = {child.slot: number for child, number in fleet.enforcer.running()}
            if running.get(slot) != run:
                del self._revoked[slot]
            elif now >= at:
                del self._revoked[slot]
                fleet.enforcer.execute({slot: Sentence("revoked", run)})
