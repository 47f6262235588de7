"""The board: shared memory in which children say what they run. Read by the supervisor and the dispatcher.

One slot of 512 bytes per child. Surprising facts this rests on:

- ``memoryview(mmap).cast("q")[i] = x`` is one aligned 8-byte store. ``struct.pack_into`` is not (it zero-fills first).
- What is read while a child runs only decides *when to look*; decisions to kill are taken from a stopped child.
- Each word has one writer: the child, except OWNER and ASKED, which are the supervisor's.
- A child writes deadlines last at a task's start and zeroes them first at its end, so a deadline on the board belongs
  to the RUN beside it. That word counts the runs which the slot has had, whichever child was in it, and never goes
  back.
- Nobody looks at regular intervals: the supervisor publishes in NEXT_LOOK until when it means to sleep, and a child
  that writes an earlier deadline rings the bell (an eventfd).
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import Final

SLOT_BYTES: Final = 512
SLOT_WORDS: Final = SLOT_BYTES // 8

# Words written by the child.
STATE: Final = 0
SEQUENCE: Final = 1
RUN: Final = 2
STARTED_NS: Final = 3
SOFT_NS: Final = 4
HARD_NS: Final = 5
MEMORY_LIMIT: Final = 6
BASE_MEMORY: Final = 7
TASKS_DONE: Final = 8
RAISED: Final = 9
"""(run << 3 | reason) of the last interruption that was raised in a task."""
LIMIT_MS: Final = 10
"""The hard limit itself, in milliseconds, for the report."""
SPAWN: Final = 11
TASK: Final = 12
"""Index of the task in the registry of the child's generation."""
# Words written by the supervisor.
OWNER: Final = 16
ASKED: Final = 17
"""(run << 3 | reason): please raise this in that run."""
# Bytes written by the child: length byte and text.
CLAIM_AT: Final = 160
CLAIM_MAX: Final = 64
ID_AT: Final = 240
ID_MAX: Final = 255
_TEXTS = struct.Struct(f"{1 + CLAIM_MAX}p{ID_AT - CLAIM_AT - 1 - CLAIM_MAX}x{1 + ID_MAX}p")
"""Claim and id, from CLAIM_AT on."""

# States.
EMPTY: Final = 0
STARTING: Final = 1
WAITING: Final = 2
RUNNING: Final = 3
REPORTING: Final = 4
LEAVING: Final = 5
STATE_NAMES: Final = ("empty", "starting", "waiting", "running", "reporting", "leaving")

# Reasons, a stronger one greater.
SOFT: Final = 1
SHUTDOWN: Final = 2
REVOKED: Final = 3
REASON_BITS: Final = 3

# Words of the head, before the slots.
NEXT_LOOK_NS: Final = 0
LANE_AT: Final = 8
"""Lane i of the dispatcher: word LANE_AT + 2 i is when it last went round (ns), + 1 is 1 while it has work."""
LANES: Final = ("fetch", "outcomes", "settle", "publish")

FOREVER: Final = 2**63 - 1


class Board:
    """The shared memory of one engine: a head and ``slots`` slots. Made before any fork, inherited by all."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._memory = mmap.mmap(-1, SLOT_BYTES * (slots + 1))
        self.words = memoryview(self._memory).cast("q")
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def slot(self, index: int) -> Slot:
        """Returns the view of one slot."""
        return Slot(self, index)

    def ring(self) -> None:
        """Wakes the supervisor. Any process."""
        os.eventfd_write(self.bell, 1)

    def stamp_lane(self, lane: int, working: bool) -> None:
        """Says that a lane of the dispatcher goes round, and whether it has work."""
        self.words[LANE_AT + 2 * lane] = time.monotonic_ns()
        self.words[LANE_AT + 2 * lane + 1] = int(working)

    def close(self) -> None:
        """Lets go of the memory in this process."""
        self.words.release()
        self._memory.close()
        os.close(self.bell)


class Slot:
    """One child's place on the board."""

    def __init__(self, board: Board, index: int) -> None:
        self.index = index
        self._board = board
        self._at = (index + 1) * SLOT_WORDS
        self._byte = (index + 1) * SLOT_BYTES
        self._words = board.words
        self._bytes = board.words.cast("B")

    def __getitem__(self, word: int) -> int:
        return self._words[self._at + word]

    def __setitem__(self, word: int, value: int) -> None:
        self._words[self._at + word] = value

    # Written by the child.

    def begin(self, sequence: int, claim: bytes, task_id: bytes, task: int) -> int:
        """Says that a task is in hand; returns the number of its run. Deadlines follow with `set_deadlines`."""
        words, at = self._words, self._at
        run = words[at + RUN] + 1
        _TEXTS.pack_into(self._bytes, self._byte + CLAIM_AT, claim, task_id)
        words[at + STARTED_NS] = time.monotonic_ns()
        words[at + SEQUENCE] = sequence
        words[at + TASK] = task
        words[at + RUN] = run
        words[at + STATE] = RUNNING
        return run

    def set_deadlines(self, soft_ns: int, hard_ns: int, limit_ms: int, memory_limit: int) -> None:
        """Starts the limits of the task in hand (monotonic ns and bytes, 0: none)."""
        words, at = self._words, self._at
        words[at + LIMIT_MS] = limit_ms
        words[at + MEMORY_LIMIT] = memory_limit
        words[at + SOFT_NS] = soft_ns
        words[at + HARD_NS] = hard_ns
        earliest = min(soft_ns or FOREVER, hard_ns or FOREVER)
        if earliest < words[NEXT_LOOK_NS] or memory_limit:
            self._board.ring()

    def clear_deadlines(self) -> None:
        """Stops the limits: the outcome is sent, or waits for room."""
        words, at = self._words, self._at
        words[at + HARD_NS] = 0
        words[at + SOFT_NS] = 0
        words[at + MEMORY_LIMIT] = 0
        words[at + STATE] = REPORTING

    def wait(self) -> None:
        """Says that the child waits for a task."""
        self._words[self._at + STATE] = WAITING

    # Read by the supervisor and the dispatcher.

    @property
    def claim(self) -> bytes:
        """The claim of the task in hand."""
        return self._get(CLAIM_AT, CLAIM_MAX)

    @property
    def task_id(self) -> str:
        """The id of the task in hand."""
        return self._get(ID_AT, ID_MAX).decode(errors="replace")

    def reset(self) -> None:
        """Empties the slot for its next child; RUN goes on. Supervisor, when no child is in it."""
        run = self[RUN]
        for word in range(SLOT_WORDS):
            self[word] = 0
        self[RUN] = run

    def _get(self, at: int, most: int) -> bytes:
        start = self._byte + at
        size = min(self._bytes[start], most)
        return bytes(self._bytes[start + 1 : start + 1 + size])
