"""The messages that are ready: one line per queue and priority.

An entry that is taken out of the middle (revoked) stays in its line as GONE until its turn comes: `deque.remove` would
cost as much as the line is long.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Set as AbstractSet

from engine_memory.entry import GONE, READY, Entry


class Lines:
    """Ready entries. Not thread safe: the broker's lock is held."""

    def __init__(self) -> None:
        # 9 first. A queue is there only while its line is not empty; the order of the queues is whose turn is next.
        self._by_priority: tuple[dict[str, deque[Entry]], ...] = tuple({} for _ in range(10))
        self._gone: Counter[str] = Counter()

    def append(self, entry: Entry) -> None:
        """Puts an entry at the end of its queue."""
        entry.place = READY
        lines = self._by_priority[9 - entry.priority]
        line = lines.get(entry.queue)
        if line is None:
            lines[entry.queue] = deque((entry,))
        else:
            line.append(entry)

    def put_back(self, entries: list[Entry]) -> None:
        """Puts entries back where they stood: at the front of their queues, in their old order."""
        for entry in sorted(entries, reverse=True):
            entry.place = READY
            line = self._by_priority[9 - entry.priority].setdefault(entry.queue, deque())
            before: list[Entry] = []
            while line and line[0] < entry:
                before.append(line.popleft())
            line.appendleft(entry)
            line.extendleft(reversed(before))

    def withdraw(self, entry: Entry) -> None:
        """Takes an entry out, wherever it stands."""
        entry.place = GONE
        self._gone[entry.queue] += 1

    def clear(self, queue: str) -> list[Entry]:
        """Takes all entries of a queue out, and returns them."""
        taken = [entry for lines in self._by_priority for entry in lines.pop(queue, ()) if entry.place == READY]
        for entry in taken:
            entry.place = GONE
        self._gone.pop(queue, None)
        return taken

    def counts(self) -> Counter[str]:
        """Returns how many are ready, by queue."""
        counts: Counter[str] = Counter()
        for lines in self._by_priority:
            for queue, line in lines.items():
                counts[queue] += len(line)
        counts.subtract(self._gone)
        return counts

    def take(self, queues: AbstractSet[str], limit: int) -> list[Entry]:
        """Takes up to ``limit`` entries: priority first across the queues, then the queues in turn."""
        taken: list[Entry] = []
        for lines in self._by_priority:
            if lines and len(taken) < limit:
                turns = [queue for queue in lines if queue in queues]
                if len(turns) == 1:
                    self._drain(lines, turns[0], limit, taken)
                elif turns:
                    self._take_turns(lines, deque(turns), limit, taken)
        return taken

    def _drain(self, lines: dict[str, deque[Entry]], queue: str, limit: int, taken: list[Entry]) -> None:
        line = lines[queue]
        while line and len(taken) < limit:
            entry = line.popleft()
            if entry.place == READY:
                taken.append(entry)
            else:
                self._pass_over(entry)
        if not line:
            del lines[queue]

    def _take_turns(self, lines: dict[str, deque[Entry]], turns: deque[str], limit: int, taken: list[Entry]) -> None:
        while turns and len(taken) < limit:
            queue = turns.popleft()
            self._drain(lines, queue, len(taken) + 1, taken)
            if queue in lines:
                turns.append(queue)
        for queue in turns:
            lines[queue] = lines.pop(queue)

    def _pass_over(self, entry: Entry) -> None:
        self._gone[entry.queue] -= 1
        if not self._gone[entry.queue]:
            del self._gone[entry.queue]
