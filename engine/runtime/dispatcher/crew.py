"""Runs in the dispatcher: what the board and /proc tell of the children. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from engine.runtime.board import (
    EMPTY,
    OWNER,
    REPORTING,
    RUN,
    RUNNING,
    SEQUENCE,
    SLOT_WORDS,
    STARTING,
    STATE,
    TASK,
    WAITING,
    Board,
)

SLEEPS_IN_RECEIVE = frozenset({"__skb_wait_for_more_packets", "unix_dgram_recvmsg", "skb_wait_for_more_packets"})
"""What the kernel's /proc/PID/wchan says of a thread that waits for a packet."""


class Run(NamedTuple):
    """What one child has in hand, by the board."""

    slot: int
    sequence: int
    claim: bytes
    id: str
    number: int
    task: int
    """Index of the task in its template generation's registry."""


class Crew:
    """The children, as the dispatcher sees them."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._words = board.words
        self._bases = [(index + 1) * SLOT_WORDS for index in range(board.slots)]
        self._newest_ended = 0
        self.ended = [0] * board.slots
        """By slot: sequence of the last run whose end was seen. Its child counts as idle from then on, although the
        board may still show the run: it is about to wait for the next one."""

    def end(self, slot: int, sequence: int) -> None:
        """Says that the end of a run was seen."""
        self.ended[slot] = sequence
        if sequence > self._newest_ended:
            self._newest_ended = sequence

    def newest(self) -> int:
        """Returns the highest sequence that any child has taken. Lower ones are no longer in a hand-off socket."""
        words = self._words
        return max(self._newest_ended, *[words[at + SEQUENCE] for at in self._bases])

    def idle(self) -> int:
        """Returns how many children wait for a task, or are about to."""
        words, ended = self._words, self.ended
        count = 0
        for slot, at in enumerate(self._bases):
            state = words[at + STATE]
            if state == WAITING or (RUNNING <= state <= REPORTING and words[at + SEQUENCE] == ended[slot]):
                count += 1
        return count

    def expected(self, concurrency: int) -> bool:
        """Is a child about to come up? (The board is all that tells of it.)"""
        states = [self._words[at + STATE] for at in self._bases]
        return STARTING in states or len(states) - states.count(EMPTY) < concurrency

    def running(self) -> Iterator[Run]:
        """Yields what children have in hand."""
        for index, at in enumerate(self._bases):
            if self._words[at + STATE] in (RUNNING, REPORTING):
                slot = self._board.slot(index)
                words = self._words
                yield Run(index, words[at + SEQUENCE], slot.claim, slot.task_id, words[at + RUN], words[at + TASK])

    def begun(self, slot: int) -> int | None:
        """Returns the sequence that the child in this slot has in hand, or None."""
        at = self._bases[slot]
        return self._words[at + SEQUENCE] if self._words[at + STATE] in (RUNNING, REPORTING) else None

    def awake(self) -> dict[int, int]:
        """Returns slot -> pid of the children that wait by the board, but do not sleep in the kernel waiting for a
        packet: they may have one in hand that the board does not show yet."""
        found: dict[int, int] = {}
        for slot, at in enumerate(self._bases):
            pid = self._words[at + OWNER]
            if self._words[at + STATE] == WAITING and pid and not sleeps_in_receive(pid):
                found[slot] = pid
        return found

    def still_undecided(self, slot: int, pid: int) -> bool:
        """May this child, which was awake, still hold a packet that the board does not show?"""
        at = self._bases[slot]
        return self._words[at + STATE] == WAITING and self._words[at + OWNER] == pid and not sleeps_in_receive(pid)


def sleeps_in_receive(pid: int) -> bool:
    """Does the main thread of this process sleep in ``recvmsg``? A process that is gone does nothing any more."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return True
    state, threads = fields[0], int(fields[17])
    if state in (b"Z", b"X"):
        return True
    if state != b"S":
        return False
    # One thread that sleeps, sleeps in recvmsg: there is nothing else to wait for between it and the board. With more,
    # it may wait for the interpreter's lock.
    return threads == 1 or _wchan(pid) in SLEEPS_IN_RECEIVE or _wchan(pid) in ("", "0")


def _wchan(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
