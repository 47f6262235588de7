"""Runs in the supervisor: notices a dispatcher one of whose lanes has work and does not move."""

from __future__ import annotations

import logging

from engine.runtime import board as words
from engine.runtime.board import LANE_AT, LANES, Board

log = logging.getLogger("engine.supervisor")
PATIENCE = 30.0
"""Seconds without a stamp, while there is work, after which the dispatcher is killed."""
OWN_GAP = 15.0
"""A longer pause between two looks means that this process was stopped too: counting starts anew."""


class LanesWatch:
    """Remembers each lane's stamp and since when it has seen it: only its own clock counts."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen: dict[int, tuple[int, float]] = {}
        self._looked = 0.0

    def forget(self) -> None:
        """Starts anew, with a new dispatcher."""
        self._seen.clear()

    def stuck(self, now: float) -> bool:
        """Is a lane stuck? Says which in the log."""
        if now - self._looked > OWN_GAP:
            self._seen.clear()
        self._looked = now
        for lane, name in enumerate(LANES):
            if self._is_stuck(lane, now):
                log.error("the dispatcher's %s lane has work and has not moved for %g s: killing it", name, PATIENCE)
                self._seen.clear()
                return True
        return False

    def _is_stuck(self, lane: int, now: float) -> bool:
        stamp, working = self._board.words[LANE_AT + 2 * lane], self._board.words[LANE_AT + 2 * lane + 1]
        before, since = self._seen.get(lane, (0, now))
        if not working or stamp != before:
            self._seen[lane] = (stamp, now)
            return False
        return now - since > PATIENCE


assert words.LANE_AT + 2 * len(LANES) <= words.SLOT_WORDS, "the lanes' stamps fit into the board's head"
