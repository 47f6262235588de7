"""Runs in the supervisor: THE place that interrupts and kills children. The rules are in `limits`.

Soft limit, shutdown, revoke: (run, reason) is written to the slot's ASKED word and INTERRUPT is sent; the child
raises only if that run is still in hand. Hard limit and memory limit: stop, look, kill. All that look late are
stopped first, each slot is read again when its stop is confirmed, and only a child that is still at the same task, and
still late, is killed with its whole family; any other goes on.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable

from engine.runtime import board as words
from engine.runtime import processes, signals
from engine.runtime.board import REASON_BITS, SOFT, Board
from engine.runtime.supervisor import limits
from engine.runtime.supervisor.children import Child, Pool, Sentence
from engine.runtime.supervisor.limits import Due, Reading

log = logging.getLogger("engine.supervisor")
STOP_PATIENCE = 0.1
"""Seconds in which a stop has to be confirmed; a child whose stop is not is killed, and the board tells what it ran."""


class Enforcer:
    """Asks and kills the children of a pool by what the board says."""

    def __init__(self, board: Board, pool: Pool, name_of: Callable[[Child], str]) -> None:
        self._board = board
        self._pool = pool
        self._name_of = name_of

    def look(self) -> Due:
        """Reads the board."""
        readings = [limits.read(self._board.slot(child.slot)) for child in self._pool.living() if not child.sentence]
        return limits.look(readings, time.monotonic_ns())

    def enforce(self) -> None:
        """Asks and kills all that are due."""
        due = self.look()
        for reading in due.soft:
            self.ask(reading.slot, reading.run, SOFT)
        large = [reading for reading in due.memory if self._growth(reading) > reading.memory_limit]
        if due.hard or large:
            self._stop_look_kill(due.hard, large)

    def ask(self, slot: int, run: int, reason: int) -> None:
        """Asks the child in a slot to raise ``reason`` in that run; once, and never a weaker one."""
        child, place = self._pool.children[slot], self._board.slot(slot)
        if not child.pid or Reading(slot, run, asked=place[words.ASKED]).was_asked(reason):
            return
        place[words.ASKED] = run << REASON_BITS | reason
        os.kill(child.pid, signals.INTERRUPT)

    def running(self) -> list[tuple[Child, int]]:
        """Returns the children that run a task, and the number of the run."""
        found = []
        for child in self._pool.living():
            slot = self._board.slot(child.slot)
            if slot[words.STATE] in (words.RUNNING, words.REPORTING):
                found.append((child, slot[words.RUN]))
        return found

    def execute(self, sentences: dict[int, Sentence]) -> None:
        """Kills the children in these slots with their descendants. What else is in their sessions is killed when they
        are reaped."""
        for slot, sentence in sentences.items():
            self._pool.children[slot].sentence = sentence
        doomed = [self._pool.children[slot] for slot in sentences]
        # Stopped, they bring forth no more while their descendants are listed.
        for child in doomed:
            os.kill(child.pid, signal.SIGSTOP)
        self._await_stops(set(sentences))
        below = processes.descendants(child.pid for child in doomed)
        processes.kill([*(child.pid for child in doomed), *below])
        for child in doomed:
            name, why = self._name_of(child), _reason_text(sentences[child.slot])
            log.warning("killed child %d (pid %d) at %s: %s", child.slot, child.pid, name, why)

    def _growth(self, reading: Reading) -> int:
        child = self._pool.children[reading.slot]
        return processes.resident(child.pid) - reading.base_memory

    def _stop_look_kill(self, late: list[Reading], large: list[Reading]) -> None:
        suspects = {reading.slot: reading for reading in (*large, *late)}
        for slot in suspects:
            os.kill(self._pool.children[slot].pid, signal.SIGSTOP)
        unconfirmed = self._await_stops(set(suspects))
        sentences: dict[int, Sentence] = {}
        large_slots = {reading.slot for reading in large}
        for slot, before in suspects.items():
            sentence = self._judge(before, slot in large_slots, slot in unconfirmed)
            if sentence is not None:
                sentences[slot] = sentence
            else:
                os.kill(self._pool.children[slot].pid, signal.SIGCONT)
        if sentences:
            self.execute(sentences)

    def _judge(self, before: Reading, is_large: bool, unconfirmed: bool) -> Sentence | None:
        slot = self._board.slot(before.slot)
        stopped = limits.read(slot)
        now = time.monotonic_ns()
        if is_large and (unconfirmed or limits.still_there(before, stopped)):
            return Sentence("memory_limit", before.run, before.memory_limit, self._growth(before))
        if unconfirmed or limits.still_late(before, stopped, now):
            used = (now - slot[words.STARTED_NS]) / 1e9
            return Sentence("time_limit", before.run, slot[words.LIMIT_MS] / 1000, used)
        return None

    def _await_stops(self, slots: set[int]) -> set[int]:
        """Returns the slots whose stop was not confirmed in time. One that died instead counts as confirmed: it is
        reaped as any other, whatever is done to it here."""
        deadline = time.monotonic() + STOP_PATIENCE
        while slots:
            for slot in list(slots):
                pid = self._pool.children[slot].pid
                flags = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
                if os.waitid(os.P_PID, pid, flags) is not None:
                    slots.discard(slot)
            if not slots or time.monotonic() > deadline:
                break
            time.sleep(0.0002)
        return slots


def _reason_text(sentence: Sentence) -> str:
    if sentence.why == "time_limit":
        return f"time limit of {sentence.limit:g} s exceeded"
    if sentence.why == "memory_limit":
        return f"memory limit of {sentence.limit / 2**20:.0f} MiB exceeded ({sentence.used / 2**20:.0f} MiB)"
    return sentence.why
