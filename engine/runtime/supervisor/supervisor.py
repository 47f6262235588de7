"""Runs in the supervisor: the loop that spawns, reaps, enforces limits, and shuts down. One thread, no network.

Each round: take the signals that came, reap the dead, enforce limits, move reload and shutdown on, start what is
missing; then sleep until the next deadline or event. Nothing here waits for a socket, a lock or a log pipe.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from engine import __version__
from engine.app.config.urls import readable
from engine.runtime import board as words
from engine.runtime import control, spawn
from engine.runtime.board import FOREVER, REVOKED
from engine.runtime.log import LogWriter
from engine.runtime.processes import Exit
from engine.runtime.signals import SignalPipe
from engine.runtime.supervisor import status
from engine.runtime.supervisor.children import Stage
from engine.runtime.supervisor.commands import Answer, ControlSocket
from engine.runtime.supervisor.fleet import Fleet
from engine.runtime.supervisor.generations import Generation, Phase
from engine.runtime.supervisor.lanes_watch import LanesWatch
from engine.runtime.supervisor.reload import Reload
from engine.runtime.supervisor.services import Service
from engine.runtime.supervisor.shutdown import Shutdown, Step

log = logging.getLogger("engine.supervisor")
LONGEST_SLEEP = 10.0
SPAWN_PATIENCE = 30.0
"""Seconds after which a child that the template was asked for, and never told the pid of, is given up."""
START_PATIENCE = 30.0
"""Seconds after which the log says that a child is slow to start."""


class Supervisor:
    """The loop of one engine on this host."""

    def __init__(self, fleet: Fleet, commands: ControlSocket, writer: LogWriter) -> None:
        self._fleet = fleet
        self._pool = fleet.pool
        self._board = fleet.board
        self._dispatcher = fleet.dispatcher
        self._enforcer = fleet.enforcer
        self._deaths = fleet.deaths
        self._commands = commands
        self._writer = writer
        self._signals = SignalPipe()
        self._lanes = LanesWatch(fleet.board)
        self._reload = Reload(fleet)
        self._shutdown = Shutdown(fleet)
        self._verbs = status.verbs(fleet, self._reload, self._shutdown)
        self._on_terminal = os.isatty(2)

    def run(self) -> int:
        """Runs the engine until it has shut down; returns the exit status."""
        spawn.become_subreaper()
        # What is here now is here for good. A collection that walked over it would write to every page of it, and so
        # end its sharing with the processes forked from this one.
        gc.collect()
        gc.freeze()
        while (ended := self._round()) is None:
            self._sleep()
        self._writer.flush()
        return ended

    def _round(self) -> int | None:
        """Does what is due; returns the exit status when all is down."""
        self._hear_signals()
        self._reap()
        self._enforcer.enforce()
        now = time.monotonic()
        if self._lanes.stuck(now):
            self._dispatcher.kill()
        self._notice_ready(now)
        if self._fleet.booted and not self._fleet.draining:
            self._reload.advance()
        ended = self._shutdown.advance(now)
        self._start_services(now)
        self._spawn_children(now)
        return ended

    # One round.

    def _hear_signals(self) -> None:
        came = self._signals.take()
        if signal.SIGQUIT in came:
            self._shutdown.quick("QUIT")
        elif signal.SIGTERM in came:
            self._shutdown.drain("TERM")
        elif signal.SIGINT in came:
            self._shutdown.interrupt()
        elif signal.SIGHUP in came:
            # A terminal that is closed sends HUP too, and nobody would see the engine that went on.
            if self._on_terminal and not os.isatty(2):
                self._shutdown.drain("the terminal was closed")
            else:
                self._reload.ask()

    def _reap(self) -> None:
        now = time.monotonic()
        for pid, end in self._deaths.reap():
            if pid == self._dispatcher.pid:
                self._dispatcher_died(end, now)
            for generation in list(self._fleet.generations):
                if pid == generation.template.pid:
                    self._template_died(generation, end, now)
        self._deaths.write()
        self._fleet.forget_retired()

    def _dispatcher_died(self, end: Exit, now: float) -> None:
        self._hear(self._dispatcher)
        failure = self._dispatcher.failure
        self._shutdown.dispatcher_ended(end)
        self._dispatcher.died(end, now)
        self._lanes.forget()
        if not self._fleet.booted and failure is not None:
            self._shutdown.fail(failure.status, failure.line)
        elif self._dispatcher.backoff.hopeless:
            self._shutdown.fail(70, "the dispatcher died again and again: giving up (see the log above)")

    def _template_died(self, generation: Generation, end: Exit, now: float) -> None:
        self._hear(generation.template)
        failure = generation.template.failure
        generation.template.died(end, now)
        for child in self._pool.of(generation.number):
            if child.stage is Stage.ORDERED:
                self._pool.empty(child)
        if generation.phase is Phase.TRIAL or (generation.phase is Phase.LOADING and self._fleet.booted):
            self._reload.failed(failure.line if failure else f"the template died ({end.words})")
        elif not self._fleet.booted and failure is not None:
            self._shutdown.fail(failure.status, failure.line)
        elif generation.template.backoff.hopeless:
            self._shutdown.fail(70, "the template died again and again: giving up (see the log above)")

    def _start_services(self, now: float) -> None:
        if self._dispatcher.start_if_due(now) and self._dispatcher.starts > 1:
            for generation in self._fleet.generations:
                if generation.phase is Phase.RETIRED:
                    self._dispatcher.tell(control.RetireGeneration(generation.number))
            if self._shutdown.step is Step.FINISHING:
                self._dispatcher.tell(control.Finish())
        for generation in self._fleet.generations:
            generation.template.start_if_due(now)

    def _notice_ready(self, now: float) -> None:
        for child in self._pool.children:
            if child.stage is Stage.STARTING and self._board.slot(child.slot)[words.STATE] >= words.WAITING:
                self._pool.ready(child, now)
        first = self._fleet.generations[0]
        if (
            not self._fleet.booted
            and first.phase is Phase.TRIAL
            and self._dispatcher.ready
            and self._pool.up(first.number)
        ):
            self._fleet.booted = True
            self._fleet.activate(first)
            self._announce(first)

    def _announce(self, generation: Generation) -> None:
        """Logs that the engine is up, and with what."""
        settings = self._fleet.config.settings
        names = [info.name for info in generation.tasks]
        log.info("tasks: %s", ", ".join(names) if names else "told by the first child")
        log.info(
            "engine %s %s is up: %d children, queues %s, broker %s, results %s",
            settings.engine.name,
            __version__,
            self._pool.concurrency,
            ", ".join(settings.worker.queues),
            readable(settings.broker.url or ""),
            readable(settings.results.url) if settings.results.url else "none",
        )

    def _spawn_children(self, now: float) -> None:
        for child in self._pool.overdue(now, SPAWN_PATIENCE):
            log.error("the template did not say what became of child %d", child.slot)
            self._pool.failed(child, now)
            self._pool.empty(child)
        for child in self._pool.slow(now, START_PATIENCE):
            log.warning(
                "child %d (pid %d) has been starting for %g s: does an import or an @app.on_child_start hook hang?",
                child.slot,
                child.pid,
                START_PATIENCE,
            )
        if self._fleet.draining:
            return
        for generation in reversed(self._fleet.generations):
            if not generation.template.ready or generation.phase is Phase.RETIRED:
                continue
            if generation.phase is Phase.LOADING:
                generation.phase = Phase.TRIAL
            for child in self._pool.order(generation.number, now):
                self._board.slot(child.slot).reset()
                generation.template.tell(control.Spawn(child.slot, child.spawn))
        self._judge_boot()

    def _judge_boot(self) -> None:
        failures, status = self._pool.backoff(self._fleet.generations[0].number).failures, self._deaths.last_failure
        if self._fleet.booted or not failures:
            return
        if status == 78:
            self._shutdown.fail(78, "a child could not start (see the line above)")
        elif failures >= 10:
            self._shutdown.fail(70, f"children die before they are ready, the last with status {status}: giving up")

    # Sleeping and hearing.

    def _sleep(self) -> None:
        """Sleeps until an event, a deadline on the board, or a time of its own.

        A child that writes an earlier deadline than NEXT_LOOK rings the bell; what it wrote before NEXT_LOOK was there
        to be read is seen by the second look.
        """
        now = time.monotonic()
        wake_at = min(now + LONGEST_SLEEP, self._next_event(now))
        look = self._enforcer.look().next_ns
        wake_ns = min(look, int(wake_at * 1e9))
        self._board.words[words.NEXT_LOOK_NS] = wake_ns
        due = self._enforcer.look()
        if due.hard or due.soft or self._news():
            timeout = 0.0
        else:
            timeout = max(0.0, (min(wake_ns, due.next_ns) - time.monotonic_ns()) / 1e9)
        self._poll(timeout)
        self._board.words[words.NEXT_LOOK_NS] = FOREVER

    def _news(self) -> bool:
        """Has a child become ready that `_notice_ready` has not seen?"""
        slots = (self._board.slot(c.slot) for c in self._pool.children if c.stage is Stage.STARTING)
        return any(slot[words.STATE] >= words.WAITING for slot in slots)

    def _next_event(self, now: float) -> float:
        """Returns when the supervisor has something to do by itself: a monotonic time, possibly never."""
        waits = [service.backoff.not_before for service in self._fleet.services() if service.wanted and not service.pid]
        waits += [self._pool.not_before(generation.number) for generation in self._fleet.generations]
        return min([self._shutdown.next_event(now), *(at for at in waits if at > now)])

    def _poll(self, timeout: float) -> None:
        """Waits for events, and acts on them. The set of descriptors is made anew each time: it changes often, and a
        connection that was handed to the dispatcher lives on after it was closed here."""
        poller = select.poll()
        for fd in (self._signals.fileno(), self._board.bell, *self._commands.fds()):
            poller.register(fd, select.POLLIN)
        for service in self._fleet.services():
            if service.fd >= 0:
                poller.register(service.fd, select.POLLIN | (select.POLLOUT if service.has_mail else 0))
        for fd in self._deaths.waiting:
            poller.register(fd, select.POLLOUT)
        if self._writer.pending:
            poller.register(self._writer.fileno(), select.POLLOUT)
        for fd, _ in poller.poll(timeout * 1000):
            self._on_event(fd)

    def _on_event(self, fd: int) -> None:
        if fd == self._board.bell:
            os.eventfd_read(fd)
        elif fd == self._writer.fileno():
            self._writer.flush()
        elif fd in self._commands.fds():
            self._commands.serve(fd, self._verbs, self._relay)
        for service in self._fleet.services():
            if fd == service.fd:
                self._hear(service)
                service.flush()

    def _hear(self, service: Service) -> None:
        for message in service.hear():
            self._act_on(message, service)

    def _act_on(self, message: Any, service: Service) -> None:
        if isinstance(message, control.Spawned):
            self._adopt(message)
        elif isinstance(message, control.Ready):
            for note in message.notes:
                log.warning("%s: %s", service.role, note)
            for generation in self._fleet.generations:
                if generation.template is service and message.tasks:
                    generation.tasks = message.tasks
        elif isinstance(message, control.Tasks):
            generation_ = self._fleet.generation(message.generation)
            if generation_ is not None:
                generation_.tasks = message.tasks
        elif isinstance(message, control.Interrupt):
            self._enforcer.ask(message.slot, message.run, REVOKED)
            self._shutdown.revoke(message.slot, message.run)

    def _adopt(self, message: control.Spawned) -> None:
        now, ordered_at = time.monotonic(), self._pool.children[message.slot].since
        child = self._pool.spawned(message.slot, message.spawn, message.pid, now)
        if child is None:
            return  # given up meanwhile: without an owner word it exits by itself
        if message.pid == 0 or self._deaths.has_died_unknown(message.pid, ordered_at):
            child.pid = 0
            self._pool.failed(child, now)
            self._pool.empty(child)
            return
        self._board.slot(child.slot)[words.OWNER] = child.pid

    def _relay(self) -> Answer | Callable[[socket.socket], None]:
        if not self._dispatcher.ready:
            return {"ok": False, "error": "the dispatcher is not ready"}
        return self._hand_over

    def _hand_over(self, client: socket.socket) -> None:
        try:
            self._dispatcher.tell(control.Client(), [client.fileno()])
        except OSError as error:
            log.warning("a client cannot be handed to the dispatcher: %s", error)
