"""Which messages a fetch takes: priority first across the queues, then the queues in turn.

The lines are read from the index alone, one step for all queues. How much of each line is read is learnt: with one full
queue among a thousand it should be much, with a thousand full ones little. Where a line was not read to its end and its
part is used up, the choice stops: what comes next in it is not known. A fetch may return less than its limit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from engine_sqlite.schema import READY

READ_AT_ONCE = 4096
"""Places in line that one fetch should read at most."""

LINES = f"""
SELECT json_group_array(json_array(q.key, json((
    SELECT json_group_array(json_array(priority, seq)) FROM (
        SELECT CASE typeof(priority) WHEN 'integer' THEN priority ELSE 0 END AS priority, seq
        FROM message INDEXED BY message_ready
        WHERE state = {READY} AND queue = q.value ORDER BY message.priority DESC, place LIMIT ?
    )
))))
FROM json_each(?) AS q WHERE q.value NOT IN (SELECT queue FROM paused)
"""
"""Reads the lines, as one JSON text. Its parameters: `Choice.parameters`."""
_decoder = msgspec.json.Decoder(list[tuple[int, list[tuple[int, int]]]])


class Choice:
    """Chooses for one consumer. Remembers whose turn is next."""

    def __init__(self, queues: Sequence[str]) -> None:
        self.queues = [*dict.fromkeys(queues)]
        self._as_json = json.dumps(self.queues)
        self._next = 0
        self._learnt = 64

    def parameters(self, limit: int) -> tuple[int, str]:
        """Returns the parameters of `LINES`: how much of each line is to be read, and the queues."""
        return (limit if len(self.queues) == 1 else min(limit, self._learnt), self._as_json)

    def choose(self, text: str, depth: int, limit: int) -> list[tuple[int, int]]:
        """Takes what `LINES` read with a depth; returns up to ``limit`` of (seq, number of the queue), in the order in
        which they are to be run."""
        lines = [(number, line) for number, line in _decoder.decode(text) if line]
        self._learn(sum(len(line) for _, line in lines), depth)
        if len(lines) == 1:
            number, line = lines[0]
            return [(seq, number) for _, seq in line]
        return self._merge(lines, depth, limit)

    def _learn(self, read: int, depth: int) -> None:
        if read > READ_AT_ONCE:
            self._learnt = max(1, depth // 2)
        elif read < READ_AT_ONCE / 2:
            self._learnt = min(READ_AT_ONCE, self._learnt * 2)

    def _merge(self, lines: list[tuple[int, list[tuple[int, int]]]], depth: int, limit: int) -> list[tuple[int, int]]:
        count = len(self.queues)
        order: list[tuple[int, int, int, int, int]] = []
        for number, line in lines:
            turn = (number - self._next) % count
            within, before = 0, None
            for priority, seq in line:
                within = within + 1 if priority == before else 0
                before = priority
                order.append((-priority, within, turn, seq, number))
            if len(line) == depth < limit:
                order.append((-line[-1][0], within + 1, turn, 0, -1))
        order.sort()
        chosen: list[tuple[int, int]] = []
        for _, _, _, seq, number in order[:limit]:
            if number < 0:
                break
            chosen.append((seq, number))
        if chosen:
            self._next = (chosen[-1][1] + 1) % count
        return chosen
