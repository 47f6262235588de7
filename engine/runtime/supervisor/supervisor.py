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
from dataclasses import dataclass
from typing import Any

from engine.app.config.loader import Config
from engine.app.settings import Settings
from engine.contract.transport import Worker
from engine.runtime import board as words
from engine.runtime import control, spawn
from engine.runtime.board import FOREVER, REVOKED, Board
from engine.runtime.log import LogWriter
from engine.runtime.processes import Exit
from engine.runtime.signals import SignalPipe
from engine.runtime.supervisor import launch, status
from engine.runtime.supervisor.children import Child, Pool, Stage
from engine.runtime.supervisor.commands import ControlSocket
from engine.runtime.supervisor.deaths import Undertaker
from engine.runtime.supervisor.enforcer import Enforcer
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
SLOT_BUFFER = 1 << 20


@dataclass(frozen=True)
class Plant:
    """What `boot` has made ready for the supervisor."""

    config: Config
    worker: Worker
    concurrency: int
    commands: ControlSocket
    writer: LogWriter
    keep: list[int]
    """Descriptors that nobody but the supervisor may have, such as the locks."""


class Supervisor:
    """One engine on this host."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.config = plant.config
        self.started_at = time.monotonic()
        self.pool = Pool(plant.concurrency)
        self.board = Board(len(self.pool.children))
        self.pairs = [_slot_pair() for _ in self.pool.children]
        """(dispatcher's end, child's end) of each slot's outcome pair: they outlive the children in it."""
        self.generations: list[Generation] = []
        self.add_generation(self.config.settings)
        self.dispatcher = Service("dispatcher", lambda link: launch.dispatcher(self, link))
        self.enforcer = Enforcer(self.board, self.pool, self.task_of)
        self.deaths = Undertaker(self.board, self.pool, [theirs for _, theirs in self.pairs], self.task_of)
        self.lanes = LanesWatch(self.board)
        self.reload = Reload(self)
        self.shutdown = Shutdown(self)
        self.signals: SignalPipe | None = None
        self._on_terminal = os.isatty(2)
        self.booted = False
        self.status: int | None = None

    def run(self) -> int:
        """Runs the engine until it has shut down; returns the exit status."""
        spawn.become_subreaper()
        self.signals = SignalPipe()
        # What is here now is here for good. A collection that walked over it would write to every page of it, and so
        # end its sharing with the processes forked from this one.
        gc.collect()
        gc.freeze()
        while self.status is None:
            self._hear_signals()
            self._reap()
            self.enforcer.enforce()
            now = time.monotonic()
            if self.lanes.stuck(now):
                self.dispatcher.kill()
            self._notice_ready(now)
            self.reload.advance(now)
            self.shutdown.advance(now)
            self._start_services(now)
            self._spawn_children(now)
            if self.status is None:
                self._sleep()
        self.plant.writer.flush()
        return self.status

    # What the parts ask of each other.

    def add_generation(self, settings: Settings) -> Generation:
        """Adds a template generation with these settings; its template is started with the next round."""
        number = self.generations[-1].number + 1 if self.generations else 1
        made = Generation(number, settings, lambda generation, link: launch.template(self, generation, link))
        self.generations.append(made)
        return made

    @property
    def active(self) -> Generation | None:
        """Returns the generation that gets the tasks."""
        return next((g for g in reversed(self.generations) if g.phase is Phase.ACTIVE), None)

    def generation(self, number: int) -> Generation | None:
        """Returns the generation of that number."""
        return next((g for g in self.generations if g.number == number), None)

    def task_of(self, child: Child) -> str:
        """Says which task a child has in hand: ``name[id]``."""
        slot = self.board.slot(child.slot)
        generation = self.generation(child.template)
        name = generation.task_name(slot[words.TASK]) if generation else "a task"
        return f"{name}[{slot.task_id}]"

    def activate(self, generation: Generation) -> None:
        """Gives the tasks to this generation from now on."""
        generation.phase = Phase.ACTIVE
        try:
            self.dispatcher.tell(
                control.AddGeneration(generation.number, generation.tasks),
                [generation.outlet.fileno(), generation.inlet.fileno()],
            )
        except OSError as error:
            log.error("the dispatcher cannot be given a generation (%s): the next is born with it", error)
            self.dispatcher.kill()

    def retire(self, generation: Generation) -> None:
        """Lets the idle children of this generation leave, and the busy ones when they are done."""
        generation.phase = Phase.RETIRED
        generation.template.dismiss()
        self.dispatcher.tell(control.RetireGeneration(generation.number))

    def end(self, status: int) -> None:
        """Ends the loop. All processes are gone."""
        self.status = status

    # One round.

    def _hear_signals(self) -> None:
        assert self.signals is not None, "run() made it"
        came = self.signals.take()
        if signal.SIGQUIT in came:
            self.shutdown.quick("QUIT")
        elif signal.SIGTERM in came:
            self.shutdown.drain("TERM")
        elif signal.SIGINT in came:
            self.shutdown.interrupt()
        elif signal.SIGHUP in came:
            # A terminal that is closed sends HUP too, and nobody would see the engine that went on.
            if self._on_terminal and not os.isatty(2):
                self.shutdown.drain("the terminal was closed")
            else:
                self.reload.ask()

    def _reap(self) -> None:
        now = time.monotonic()
        for pid, end in self.deaths.reap():
            if pid == self.dispatcher.pid:
                self._dispatcher_died(end, now)
            for generation in list(self.generations):
                if pid == generation.template.pid:
                    self._template_died(generation, end, now)
        self.deaths.write()
        for generation in [g for g in self.generations if g.phase is Phase.RETIRED]:
            if not self.pool.of(generation.number) and not generation.template.pid:
                self.generations.remove(generation)
                generation.close()

    def _dispatcher_died(self, end: Exit, now: float) -> None:
        self._hear(self.dispatcher)
        failure = self.dispatcher.failure
        self.shutdown.dispatcher_ended(end)
        self.dispatcher.died(end, now)
        self.lanes.forget()
        if not self.booted and failure is not None:
            self.shutdown.fail(failure.status, failure.line)
        elif self.dispatcher.backoff.hopeless:
            self.shutdown.fail(70, "the dispatcher died again and again: giving up (see the log above)")

    def _template_died(self, generation: Generation, end: Exit, now: float) -> None:
        self._hear(generation.template)
        failure = generation.template.failure
        generation.template.died(end, now)
        for child in self.pool.of(generation.number):
            if child.stage is Stage.ORDERED:
                self.pool.empty(child)
        if generation.phase is Phase.TRIAL or (generation.phase is Phase.LOADING and self.booted):
            self.reload.failed(failure.line if failure else f"the template died ({end.words})")
        elif not self.booted and failure is not None:
            self.shutdown.fail(failure.status, failure.line)
        elif generation.template.backoff.hopeless:
            self.shutdown.fail(70, "the template died again and again: giving up (see the log above)")

    def _start_services(self, now: float) -> None:
        if self.dispatcher.start_if_due(now) and self.dispatcher.starts > 1:
            for generation in self.generations:
                if generation.phase is Phase.RETIRED:
                    self.dispatcher.tell(control.RetireGeneration(generation.number))
            if self.shutdown.step is Step.FINISHING:
                self.dispatcher.tell(control.Finish())
        for generation in self.generations:
            generation.template.start_if_due(now)

    def _notice_ready(self, now: float) -> None:
        for child in self.pool.children:
            if child.stage is Stage.STARTING and self.board.slot(child.slot)[words.STATE] >= words.WAITING:
                self.pool.ready(child, now)
        first = self.generations[0]
        if not self.booted and first.phase is Phase.TRIAL and self.dispatcher.ready and self.pool.up(first.number):
            self.booted = True
            self.activate(first)
            launch.announce(self, first)

    def _spawn_children(self, now: float) -> None:
        for child in self.pool.overdue(now, SPAWN_PATIENCE):
            log.error("the template did not say what became of child %d", child.slot)
            self.pool.failed(child, now)
            self.pool.empty(child)
        for child in self.pool.slow(now, START_PATIENCE):
            log.warning(
                "child %d (pid %d) has been starting for %g s: does an import or an @app.on_child_start hook hang?",
                child.slot,
                child.pid,
                START_PATIENCE,
            )
        if self.shutdown.begun:
            return
        for generation in reversed(self.generations):
            if not generation.template.ready or generation.phase is Phase.RETIRED:
                continue
            if generation.phase is Phase.LOADING:
                generation.phase = Phase.TRIAL
            for child in self.pool.order(generation.number, now):
                self.board.slot(child.slot).reset()
                generation.template.tell(control.Spawn(child.slot, child.spawn))
        self._judge_boot()

    def _judge_boot(self) -> None:
        failures, status = self.pool.backoff(self.generations[0].number).failures, self.deaths.last_failure
        if self.booted or not failures:
            return
        if status == 78:
            self.shutdown.fail(78, "a child could not start (see the line above)")
        elif failures >= 10:
            self.shutdown.fail(70, f"children die before they are ready, the last with status {status}: giving up")

    # Sleeping and hearing.

    def _sleep(self) -> None:
        """Sleeps until an event, a deadline on the board, or a time of its own.

        A child that writes an earlier deadline than NEXT_LOOK rings the bell; what it wrote before NEXT_LOOK was there
        to be read is seen by the second look.
        """
        now = time.monotonic()
        wake_at = min(now + LONGEST_SLEEP, self._next_event(now))
        look = self.enforcer.look().next_ns
        wake_ns = min(look, int(wake_at * 1e9))
        self.board.words[words.NEXT_LOOK_NS] = wake_ns
        due = self.enforcer.look()
        if due.hard or due.soft or self._news():
            timeout = 0.0
        else:
            timeout = max(0.0, (min(wake_ns, due.next_ns) - time.monotonic_ns()) / 1e9)
        self._poll(timeout)
        self.board.words[words.NEXT_LOOK_NS] = FOREVER

    def _news(self) -> bool:
        """Has a child become ready that `_notice_ready` has not seen?"""
        slots = (self.board.slot(c.slot) for c in self.pool.children if c.stage is Stage.STARTING)
        return any(slot[words.STATE] >= words.WAITING for slot in slots)

    def _next_event(self, now: float) -> float:
        """Returns when the supervisor has something to do by itself: a monotonic time, possibly never."""
        waits = [service.backoff.not_before for service in self._services() if service.wanted and not service.pid]
        waits += [self.pool.not_before(generation.number) for generation in self.generations]
        return min([self.shutdown.next_event(now), *(at for at in waits if at > now)])

    def _services(self) -> list[Service]:
        return [self.dispatcher, *(generation.template for generation in self.generations)]

    def _poll(self, timeout: float) -> None:
        """Waits for events, and acts on them. The set of descriptors is made anew each time: it changes often, and a
        connection that was handed to the dispatcher lives on after it was closed here."""
        assert self.signals is not None, "run() made it"
        poller = select.poll()
        for fd in (self.signals.fileno(), self.board.bell, *self.plant.commands.fds()):
            poller.register(fd, select.POLLIN)
        for service in self._services():
            if service.fd >= 0:
                poller.register(service.fd, select.POLLIN | (select.POLLOUT if service.has_mail else 0))
        for fd in self.deaths.waiting:
            poller.register(fd, select.POLLOUT)
        if self.plant.writer.pending:
            poller.register(self.plant.writer.fileno(), select.POLLOUT)
        for fd, _ in poller.poll(timeout * 1000):
            self._on_event(fd)

    def _on_event(self, fd: int) -> None:
        if fd == self.board.bell:
            os.eventfd_read(fd)
        elif fd == self.plant.writer.fileno():
            self.plant.writer.flush()
        elif fd in self.plant.commands.fds():
            verbs = status.verbs(self)
            self.plant.commands.serve(fd, verbs, self._relay)
        for service in self._services():
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
            for generation in self.generations:
                if generation.template is service and message.tasks:
                    generation.tasks = message.tasks
        elif isinstance(message, control.Tasks):
            generation_ = self.generation(message.generation)
            if generation_ is not None:
                generation_.tasks = message.tasks
        elif isinstance(message, control.Interrupt):
            self.enforcer.ask(message.slot, message.run, REVOKED)
            self.shutdown.revoke(message.slot, message.run)

    def _adopt(self, message: control.Spawned) -> None:
        now = time.monotonic()
        child = self.pool.spawned(message.slot, message.spawn, message.pid, now)
        if child is None:
            return  # given up meanwhile: without an owner word it exits by itself
        if message.pid == 0 or self.deaths.forget_stranger(message.pid) is not None:
            child.pid = 0
            self.pool.failed(child, now)
            self.pool.empty(child)
            return
        self.board.slot(child.slot)[words.OWNER] = child.pid

    def _relay(self) -> status.Answer | Callable[[socket.socket], None]:
        if not self.dispatcher.ready:
            return {"ok": False, "error": "the dispatcher is not ready"}
        return self._hand_over

    def _hand_over(self, client: socket.socket) -> None:
        try:
            self.dispatcher.tell(control.Client(), [client.fileno()])
        except OSError as error:
            log.warning("a client cannot be handed to the dispatcher: %s", error)


def _slot_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SLOT_BUFFER)
    return ours, theirs
