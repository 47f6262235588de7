"""Runs in the supervisor: a reload (HUP) puts new code in the place of the old, or leaves the old where it is.

A second template imports the code as it is now. Only when it has, and the first of its children is ready (the canary),
are the old ones retired. Whatever goes wrong before that ends the new generation and touches nothing else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from engine.app.config import loader as config
from engine.app.config.loader import Config
from engine.errors import ConfigError
from engine.runtime import control, processes
from engine.runtime.supervisor.children import Stage
from engine.runtime.supervisor.generations import Generation, Phase

if TYPE_CHECKING:
    from engine.runtime.supervisor.supervisor import Supervisor

log = logging.getLogger("engine.supervisor")
_FIXED = ("engine.name", "engine.runtime_dir", "broker.", "results.url", "worker.concurrency", "worker.queues")
"""Settings that a running engine cannot change (a name that ends in a dot: the whole section)."""
CANARY_FAILURES = 3
"""Children of the new code that may die before one is ready."""


class Reload:
    """At most one reload at a time; one that is asked for meanwhile follows."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._asked = False
        self._trial: Generation | None = None
        self._config: Config | None = None
        """What the trial runs with: in force when it succeeds."""
        self._said_waiting = False
        self._outcome = "none"
        self._why = ""

    def ask(self) -> None:
        """Asks for a reload."""
        self._asked = True
        self._outcome, self._why = "asked", ""

    @property
    def outcome(self) -> dict[str, str]:
        """Says how the latest reload went: "none", "asked", "done" or "failed", and why it failed."""
        return {"state": self._outcome, "why": self._why}

    def advance(self, now: float) -> None:
        """Moves on: starts what was asked for, and retires the old when the new is ready."""
        supervisor = self._supervisor
        if supervisor.shutdown.begun or not supervisor.booted:
            return
        if self._trial is None:
            if self._asked:
                self._asked = False
                self._begin()
            return
        self._watch(self._trial)

    def failed(self, why: str) -> None:
        """Gives the new generation up; the old code goes on."""
        trial, self._trial = self._trial, None
        if trial is None:
            return
        self._refuse("reload failed, the old code keeps running", why)
        trial.phase = Phase.RETIRED
        trial.template.dismiss()
        trial.shut()
        for child in self._supervisor.pool.of(trial.number):
            if child.pid:
                processes.kill({child.pid})
            elif child.stage is Stage.ORDERED:
                self._supervisor.pool.empty(child)

    def _begin(self) -> None:
        supervisor = self._supervisor
        try:
            new = supervisor.config.reread()
        except ConfigError as error:
            self._refuse("reload refused, the old settings keep running", str(error))
            return
        fixed = [key for key in config.changed(supervisor.config.settings, new.settings) if key.startswith(_FIXED)]
        if fixed:
            self._refuse("reload refused", f"restart needed for a changed {', '.join(fixed)}")
            return
        self._config, self._said_waiting = new, False
        self._trial = supervisor.add_generation(new.settings)
        log.info("reload: importing the app as generation %d", self._trial.number)

    def _refuse(self, what: str, why: str) -> None:
        self._outcome, self._why = "failed", why
        log.error("%s: %s", what, why)

    def _watch(self, trial: Generation) -> None:
        pool = self._supervisor.pool
        if pool.up(trial.number):
            self._finish(trial)
        elif pool.backoff(trial.number).failures >= CANARY_FAILURES:
            self.failed("its children die before they are ready (see the log above)")
        elif trial.phase is Phase.TRIAL and not pool.of(trial.number) and not self._said_waiting:
            self._said_waiting = True
            tasks = [self._supervisor.task_of(child) for child, _ in self._supervisor.enforcer.running()]
            log.warning("reload waits for a free slot; tasks that run: %s", ", ".join(tasks) or "none")

    def _finish(self, trial: Generation) -> None:
        supervisor = self._supervisor
        assert self._config is not None, "a trial has one"
        supervisor.config, self._trial = self._config, None
        self._outcome = "done"
        supervisor.dispatcher.tell(control.Reconfigure(config.dump(supervisor.config.settings)))
        supervisor.activate(trial)
        for generation in supervisor.generations:
            if generation is not trial and generation.phase is Phase.ACTIVE:
                supervisor.retire(generation)
        log.info("reloaded: generation %d has the tasks now", trial.number)
