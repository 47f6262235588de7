"""Runs in the supervisor: reaps, finds out what the dead were doing, and tells the dispatcher.

A death is a packet: it is written into the dead child's own outcome socket, behind all its outcomes, and only then is
the slot free. So an outcome that was sent wins over the death by its place alone, and a dispatcher that starts later
finds the death where it lies.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable

from engine.app import wire
from engine.runtime import board as words
from engine.runtime import processes
from engine.runtime.board import Board
from engine.runtime.processes import Exit
from engine.runtime.supervisor.children import Child, Pool, Stage

log = logging.getLogger("engine.supervisor")
_EXITED = os.WEXITED | os.WNOHANG | os.WNOWAIT
KEPT_STRANGERS = 64


class Undertaker:
    """Reaps the children of a pool and writes their deaths."""

    def __init__(self, board: Board, pool: Pool, sockets: list[socket.socket], name_of: Callable[[Child], str]) -> None:
        self._board = board
        self._pool = pool
        self._sockets = sockets
        self._name_of = name_of
        self._oom = processes.OomCounter()
        self._unwritten: dict[int, wire.Death] = {}
        self._strangers: dict[int, float] = {}
        """Monotonic time of the end of each, by its pid."""
        self.last_failure: int | None = None
        """Exit status of the last child that ended before it was up."""

    def reap(self) -> list[tuple[int, Exit]]:
        """Reaps all that are dead; returns the pids and ends of those that are no children: services and strangers."""
        dead = [child for child in self._pool.living() if self._has_exited(child)]
        processes.kill_sessions({child.pid for child in dead if not self._left(child)}, spare={c.pid for c in dead})
        for child in dead:
            self._bury(child)
        return self._reap_others()

    def has_died_unknown(self, pid: int, since: float) -> bool:
        """Was a process of this pid reaped, after the monotonic time ``since``, that nobody knew? It is then the child
        that was ordered at that time, and whose birth is reported too late; one before that had the same pid only."""
        return self._strangers.pop(pid, -math.inf) >= since

    @property
    def waiting(self) -> list[int]:
        """Returns the descriptors whose room is waited for."""
        return [self._sockets[slot].fileno() for slot in self._unwritten]

    def write(self) -> None:
        """Writes the deaths that there is room for, and frees their slots."""
        for slot, death in list(self._unwritten.items()):
            try:
                wire.post(self._sockets[slot], wire.encode(death), wire.NOW)
            except BlockingIOError:
                continue
            del self._unwritten[slot]
            self._free(self._pool.children[slot])

    def _has_exited(self, child: Child) -> bool:
        try:
            return os.waitid(os.P_PID, child.pid, _EXITED) is not None
        except ChildProcessError:
            return False  # just born: still the middle process's child

    def _left(self, child: Child) -> bool:
        return self._board.slot(child.slot)[words.STATE] == words.LEAVING

    def _bury(self, child: Child) -> None:
        pid = child.pid
        status = os.waitid(os.P_PID, pid, os.WEXITED)
        assert status is not None, "waitid without WNOHANG returns a status"
        child.pid = 0  # from here on the number may be anybody's
        cause = processes.cause(status, oom=child.sentence is None and self._oom.moved())
        if self._left(child):
            log.debug("child %d (pid %d) left: %s", child.slot, pid, cause)
            self._free(child)
        elif child.stage is Stage.UP or self._board.slot(child.slot)[words.STATE] >= words.WAITING:
            self._note_early(child)
            self._unwritten[child.slot] = self._death(child, pid, cause)
            self.write()
        else:
            self.last_failure = status.si_status if status.si_code == os.CLD_EXITED else 70
            log.error("child %d (pid %d) died before it was ready: %s", child.slot, pid, cause)
            self._pool.failed(child, time.monotonic())
            self._free(child)

    def _note_early(self, child: Child) -> None:
        """A child that ends soon, while it waits and before it has done anything, was not well from the start."""
        slot = self._board.slot(child.slot)
        if slot[words.TASKS_DONE]:
            self._pool.worked()
        elif slot[words.STATE] == words.WAITING:
            self._pool.died_early(child, time.monotonic())

    def _death(self, child: Child, pid: int, cause: str) -> wire.Death:
        slot, sentence = self._board.slot(child.slot), child.sentence
        run = slot[words.RUN]
        busy = slot[words.STATE] in (words.RUNNING, words.REPORTING)
        if sentence is None:
            what = f"running {self._name_of(child)}" if busy else "waiting for a task"
            log.error("child %d (pid %d) died while %s: %s", child.slot, pid, what, cause)
        return wire.Death(
            slot=child.slot,
            pid=pid,
            spawn=child.spawn,
            run=run,
            sequence=slot[words.SEQUENCE] if busy else 0,
            id=slot.task_id if busy else "",
            claim=slot.claim if busy else b"",
            why=sentence.why if sentence else "died",
            cause=cause,
            aimed=sentence is None or sentence.run == run,
            limit=sentence.limit if sentence else 0.0,
            used=sentence.used if sentence else 0.0,
            soft_raised=slot[words.RAISED] >> words.REASON_BITS == run,
            runtime=(time.monotonic_ns() - slot[words.STARTED_NS]) / 1e9 if busy else 0.0,
        )

    def _free(self, child: Child) -> None:
        # The death lies in the socket: only now may the board stop telling what the child had in hand. Without this a
        # slot that is not filled again would tell of a child that waits, or runs, for ever.
        slot = self._board.slot(child.slot)
        slot[words.STATE], slot[words.OWNER] = words.EMPTY, 0
        self._pool.empty(child)

    def _reap_others(self) -> list[tuple[int, Exit]]:
        others: list[tuple[int, Exit]] = []
        while True:
            try:
                status = os.waitid(os.P_ALL, 0, _EXITED)
            except ChildProcessError:
                return others
            if status is None or self._pool.by_pid(status.si_pid) is not None:
                return others  # a child that died just now: the signal of its death calls us again
            os.waitpid(status.si_pid, 0)
            end = Exit.of(status)
            others.append((status.si_pid, end))
            self._strangers[status.si_pid] = time.monotonic()
            if len(self._strangers) > KEPT_STRANGERS:
                del self._strangers[next(iter(self._strangers))]
