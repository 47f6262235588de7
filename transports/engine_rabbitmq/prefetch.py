"""Prefetching: how many messages the server may push ahead, and those that it has pushed and no lane has taken.

Pure: the clock is given. Not thread-safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from engine_rabbitmq import names
from engine_rabbitmq.messages import Entry

EXACT = 16
MOST = 4096
WINDOW = 1.0
"""Seconds over which what is wanted is compared with what is there."""
IDLE = 0.25
"""Seconds without a fetch that takes anything, after which everything goes back."""


class PrefetchSize:
    """How many messages the server may push ahead to the subscriptions of one session.

    It follows what the engine asks for: exactly while that is little (a slow task's worker holds nothing that another
    could run), in powers of two above. What was pushed and nobody wants within a second goes back.
    """

    def __init__(self) -> None:
        self.wanted = False
        """Is a fetch under way that takes something?"""
        self._wanted_at = 0.0
        self._low: int | None = None
        self._taken = 0
        self._since = 0.0

    def size_for(self, limit: int, held: int, places: int) -> int:
        """Returns what each of so many places must be allowed to push for a fetch of ``limit``; ``held``: taken under
        these subscriptions, unsettled."""
        needed = -(-min(limit + held, MOST) // max(1, places))
        return needed if needed <= EXACT else 1 << (needed - 1).bit_length()

    def want(self, wanted: bool, now: float) -> None:
        """Says that a fetch begins, or ends, that takes something."""
        self.wanted = wanted
        self._wanted_at = now

    def took(self, count: int, left: int) -> None:
        """Says that a fetch took some, and how many are left."""
        self._taken += count
        self._low = left if self._low is None else min(self._low, left)

    def surplus(self, waiting: int, now: float) -> int:
        """Returns how many of those that wait should go back. Called several times a second."""
        if waiting and not self.wanted and now - self._wanted_at >= IDLE:
            return waiting
        if now - self._since < WINDOW:
            return 0
        low = waiting if self._low is None else min(self._low, waiting)
        surplus = low - max(self._taken, EXACT if self._taken else 0)
        self._since, self._taken, self._low = now, 0, None
        return max(0, surplus)


class PrefetchBuffer:
    """What was pushed and not taken: by priority, then the queues in turn."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, str], deque[Entry]] = {}
        self._turn = 0
        self._turns: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, entry: Entry) -> None:
        """Adds an entry behind those of its queue and priority; one that was given back before all others."""
        key = (entry.priority, entry.queue)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = deque()
        if entry.level == names.FRONT:
            _insert(line, entry)
        else:
            line.append(entry)
        self._count += 1

    def take(self, limit: int, paused: Callable[[str], bool]) -> list[Entry]:
        """Takes entries: priority first, then one of each queue in turn."""
        taken: list[Entry] = []
        if self._count:
            for priority in sorted({priority for priority, _ in self._lines}, reverse=True):
                self._take_of(priority, limit, paused, taken)
        return taken

    def take_back(self, count: int) -> list[Entry]:
        """Takes the last that any lane would have got, in their order."""
        taken: list[Entry] = []
        for key in sorted(self._lines):
            line = self._lines[key]
            while line and len(taken) < count:
                taken.append(line.pop())
        self._tidy()
        return sorted(taken, key=lambda entry: entry.tag)

    def put_back(self, entries: Collection[Entry]) -> None:
        """Adds entries that `take_back` took."""
        for entry in entries:
            line = self._lines.setdefault((entry.priority, entry.queue), deque())
            line.append(entry)
        self._count += len(entries)

    def take_queues(self, gone: Callable[[str], bool]) -> list[Entry]:
        """Takes all entries of some queues, in their order."""
        taken = [entry for (_, queue), line in self._lines.items() if gone(queue) for entry in line]
        for (_, queue), line in self._lines.items():
            if gone(queue):
                line.clear()
        self._tidy()
        return sorted(taken, key=lambda entry: entry.tag)

    def counts(self) -> dict[str, int]:
        """Returns how many entries each queue has."""
        counts: dict[str, int] = {}
        for (_, queue), line in self._lines.items():
            counts[queue] = counts.get(queue, 0) + len(line)
        return counts

    def _take_of(self, priority: int, limit: int, paused: Callable[[str], bool], taken: list[Entry]) -> None:
        queues = [queue for of, queue in self._lines if of == priority and not paused(queue)]
        # Whoever was served longest ago comes first, also when one message is fetched at a time.
        queues.sort(key=lambda queue: self._turns.get(queue, 0))
        before = len(taken)
        lines = [(queue, self._lines[priority, queue]) for queue in queues]
        while lines and len(taken) < limit:
            left = []
            for queue, line in lines:
                if len(taken) >= limit:
                    break
                taken.append(line.popleft())
                self._turn += 1
                self._turns[queue] = self._turn
                if line:
                    left.append((queue, line))
            lines = left
        self._count -= len(taken) - before
        for queue in queues:
            if not self._lines[priority, queue]:
                del self._lines[priority, queue]

    def _tidy(self) -> None:
        self._lines = {key: line for key, line in self._lines.items() if line}
        self._count = sum(map(len, self._lines.values()))


def _insert(line: deque[Entry], entry: Entry) -> None:
    """Puts an entry behind the ones of the front level that are there, before the others."""
    position = sum(1 for other in line if other.level == names.FRONT)
    line.insert(position, entry)
