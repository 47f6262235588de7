"""Runs in the supervisor: a reload (HUP) puts new code in the place of the old, or leaves the old where it is.

A second template imports the code as it is now. Only when it has, and the first of its children is ready (the canary),
are the old ones retired. Whatever goes wrong before that ends the new generation and touches nothing else.
"""

from __future__ import annotations

import logging

from engine.app.config import loader as config
from engine.app.config.loader import Config
from engine.errors import ConfigError
from engine.runtime import control, processes
from engine.runtime.supervisor.children import Stage
from engine.runtime.supervisor.fleet import Fleet
from engine.runtime.supervisor.generations import Generation, Phase

log = logging.getLogger("engine.supervisor")
_FIXED = ("engine.name", "engine.runtime_dir", "broker.", "results.url", "worker.concurrency", "worker.queues")
"""Settings that a running engine cannot change (a name that ends in a dot: the whole section)."""
CANARY_FAILURES = 3
"""Children of the new code that may die before one is ready."""


class Reload:
    """At most one reload at a time; one that is asked for meanwhile follows."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
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

    @property
    def outcome(self) -> dict[str, str]:
        """Says how the latest reload went: "none", "asked", "done" or "failed", and why it failed. It is "asked" while
        one is to come or under way: who asks during another one does not hear of the end of that."""
        if self._asked or self._trial is not None:
            return {"state": "asked", "why": ""}
        return {"state": self._outcome, "why": self._why}

    def advance(self) -> None:
        """Moves on: starts what was asked for, and retires the old when the new is ready. Called only while the engine
        is up: what is asked for at boot waits."""
        if self._trial is not None:
            self._watch(self._trial)
        elif self._asked:
            self._asked = False
            self._begin()

    def failed(self, why: str) -> None:
        """Gives the new generation up; the old code goes on."""
        trial, self._trial = self._trial, None
        if trial is None:
            return
        self._refuse("reload failed, the old code keeps running", why)
        trial.phase = Phase.RETIRED
        trial.template.dismiss()
        trial.shut()
        for child in self._fleet.pool.of(trial.number):
            if child.pid:
                processes.kill({child.pid})
            elif child.stage is Stage.ORDERED:
                self._fleet.pool.empty(child)

    def _begin(self) -> None:
        try:
            new = self._fleet.config.reread()
        except ConfigError as error:
            self._refuse("reload refused, the old settings keep running", str(error))
            return
        fixed = [key for key in config.changed(self._fleet.config.settings, new.settings) if key.startswith(_FIXED)]
        if fixed:
            self._refuse("reload refused", f"restart needed for a changed {', '.join(fixed)}")
            return
        try:
            self._trial = self._fleet.add_generation(new.settings)
        except OSError as error:
            self._refuse("reload refused, the old code keeps running", f"no descriptors for it: {error.strerror}")
            return
        self._config, self._said_waiting = new, False
        log.info("reload: importing the app as generation %d", self._trial.number)

    def _refuse(self, what: str, why: str) -> None:
        self._outcome, self._why = "failed", why
        log.error("%s: %s", what, why)

    def _watch(self, trial: Generation) -> None:
        pool = self._fleet.pool
        if pool.up(trial.number):
            self._finish(trial)
        elif pool.backoff(trial.number).failures >= CANARY_FAILURES:
            self.failed("its children die before they are ready (see the log above)")
        elif trial.phase is Phase.TRIAL and not pool.of(trial.number) and not self._said_waiting:
            self._said_waiting = True
            tasks = [self._fleet.task_of(child) for child, _ in self._fleet.enforcer.running()]
            log.warning("reload waits for a free slot; tasks that run: %s", ", ".join(tasks) or "none")

    def _finish(self, trial: Generation) -> None:
        fleet = self._fleet
        assert self._config is not None, "a trial has one"
        fleet.config, self._trial = self._config, None
        self._outcome, self._why = "done", ""
        fleet.dispatcher.tell(control.Reconfigure(config.dump(fleet.config.settings)))
        fleet.activate(trial)
        for generation in fleet.generations:
            if generation is not trial and generation.phase is Phase.ACTIVE:
                fleet.retire(generation)
        log.info("reloaded: generation %d has the tasks now", trial.number)
