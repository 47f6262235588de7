"""Runs in the supervisor: the processes of one engine, and what they share (board, sockets, settings).

The loop, the reload and the shutdown work on it; it knows none of them.
"""

from __future__ import annotations

import logging
import os
import socket
import time

from engine.app.config.loader import Config
from engine.app.settings import Settings
from engine.contract.transport import Worker
from engine.runtime import board as words
from engine.runtime import control
from engine.runtime.board import Board
from engine.runtime.child.template import Birth
from engine.runtime.supervisor import launch
from engine.runtime.supervisor.children import Child, Pool
from engine.runtime.supervisor.deaths import Undertaker
from engine.runtime.supervisor.enforcer import Enforcer
from engine.runtime.supervisor.generations import Generation, Phase
from engine.runtime.supervisor.services import Service

log = logging.getLogger("engine.supervisor")
SLOT_BUFFER = 1 << 20


class Fleet:
    """The dispatcher, the templates and the children of one engine."""

    def __init__(self, config: Config, worker: Worker, concurrency: int) -> None:
        self.config = config
        """In force now: a reload changes it."""
        self.worker = worker
        self.started_at = time.monotonic()
        self.booted = False
        """Has the first generation got its tasks?"""
        self.draining = False
        """Is the engine on its way down? A dispatcher that is born now fetches nothing."""
        self.pool = Pool(concurrency)
        self.board = Board(len(self.pool.children))
        self.pairs = [_slot_pair() for _ in self.pool.children]
        """(dispatcher's end, child's end) of each slot's outcome pair: they outlive the children in it."""
        self.generations: list[Generation] = []
        self.add_generation(config.settings)
        self.dispatcher = Service("dispatcher", self._launch_dispatcher)
        self.enforcer = Enforcer(self.board, self.pool, self.task_of)
        self.deaths = Undertaker(self.board, self.pool, [theirs for _, theirs in self.pairs], self.task_of)

    def add_generation(self, settings: Settings) -> Generation:
        """Adds a template generation with these settings; its template is started with the next round. Raises OSError
        when there is no descriptor left for its hand-off pair."""
        number = self.generations[-1].number + 1 if self.generations else 1
        made = Generation(number, settings, self._launch_template)
        self.generations.append(made)
        return made

    def generation(self, number: int) -> Generation | None:
        """Returns the generation of that number."""
        return next((g for g in self.generations if g.number == number), None)

    def services(self) -> list[Service]:
        """Returns the dispatcher and all templates."""
        return [self.dispatcher, *(generation.template for generation in self.generations)]

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

    def forget_retired(self) -> None:
        """Drops the retired generations that have no process left."""
        for generation in [g for g in self.generations if g.phase is Phase.RETIRED]:
            if not self.pool.of(generation.number) and not generation.template.pid:
                self.generations.remove(generation)
                generation.close()

    def _launch_dispatcher(self, link: socket.socket) -> int:
        known = [g for g in self.generations if g.phase in (Phase.ACTIVE, Phase.RETIRED)]
        return launch.dispatcher(
            control.Wiring(
                settings=self.config.settings,
                worker=self.worker,
                start=self.dispatcher.starts,
                board=self.board,
                control=link,
                outcomes=[ours for ours, _ in self.pairs],
                generations=[control.Generation(g.number, g.outlet, g.tasks, g.inlet) for g in known],
                draining=self.draining,
            )
        )

    def _launch_template(self, generation: Generation, link: socket.socket) -> int:
        birth = Birth(
            settings=generation.settings,
            worker=self.worker,
            board=self.board,
            handoff=generation.inlet,
            outcomes=[theirs for _, theirs in self.pairs],
            generation=generation.number,
            supervisor=os.getpid(),
        )
        return launch.template(birth, link)


def _slot_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SLOT_BUFFER)
    return ours, theirs
