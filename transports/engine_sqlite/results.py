"""``SqliteResults``: the result backend of ``sqlite:///``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from engine.contract import Record, ResultBackend
from engine_sqlite import records as kept
from engine_sqlite.bell import RESULTS, Bell, Ringer, listed
from engine_sqlite.clock import Clock
from engine_sqlite.session import Database, Session, checked

LISTED = 60.0
"""Seconds for which somebody who waits is listed; then the listing is renewed."""
LOOK_AGAIN = 0.5
"""Seconds after which a waiting one compares the file's version, whatever happens to bells."""
QUICK = 0.002
"""Seconds that a look for missing results may take; after a longer one, twice its time is slept before the next."""


class SqliteResults(ResultBackend):
    """Keeps records in a table, for ``expires`` seconds."""

    options: ClassVar[Mapping[str, type]] = {"synchronous": str, "busy_timeout": float}

    def __init__(self, url: str, *, expires: float, options: Mapping[str, Any]) -> None:
        super().__init__(url, expires=expires, options=options)
        self.database = Database(url, "results", options)
        self._session = Session(self.database)
        self._ringer = Ringer(self._session)
        self._keeper = kept.Keeper(expires)
        self._clock = Clock()
        self._bell: Bell | None = None
        self._listed_until = 0.0

    def store(self, records: Sequence[Record]) -> None:
        """See `ResultBackend.store`."""
        if not records:
            return
        now = self._clock.now()
        waiting = "[]"
        with self._session.write() as connection:
            self._keeper.store(connection, records, now)
            if kept.has_final(records):
                waiting = listed(connection, (RESULTS,), now)
        self._ringer.ring(waiting)

    def get(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """See `ResultBackend.get`."""
        rows = self._session.read(kept.SELECT, (json.dumps([*ids]), self._clock.now()))
        return {row[0]: kept.record(row) for row in rows}

    def wait(self, ids: Sequence[str], timeout: float) -> Iterator[Record]:
        """See `ResultBackend.wait`."""
        deadline = time.monotonic() + timeout
        missing = set(ids)
        version: int | None = None
        paused = 0.0
        while missing:
            # Before the look: what is written after the look then shows in the version.
            seen = self._session.version()
            if seen != version:
                version = seen
                looked = time.monotonic()
                ended = self._ended(missing)
                paused = min(2 * (time.monotonic() - looked), LOOK_AGAIN)
                missing.difference_update(record.id for record in ended)
                yield from ended
            if not missing or (left := deadline - time.monotonic()) <= 0:
                return
            if self._listen():
                version = None
                continue
            if self._my_bell().wait(min(left, LOOK_AGAIN)) and paused > QUICK:
                time.sleep(min(left, paused))

    def forget(self, ids: Sequence[str]) -> None:
        """See `ResultBackend.forget`."""
        with self._session.write() as connection:
            connection.execute("DELETE FROM result WHERE id IN (SELECT value FROM json_each(?))", (json.dumps([*ids]),))

    def check(self) -> Sequence[str]:
        """See `ResultBackend.check`."""
        return checked(self._session)

    def close(self) -> None:
        """See `ResultBackend.close`."""
        self._session.close()
        self._ringer.close()
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()

    def _ended(self, ids: set[str]) -> list[Record]:
        return [record for record in self.get([*ids]).values() if record.final]

    def _my_bell(self) -> Bell:
        if self._bell is None or not self._bell.is_mine:
            self._bell = Bell()
            self._listed_until = 0.0
        return self._bell

    def _listen(self) -> bool:
        bell = self._my_bell()
        now = self._clock.now()
        if self._listed_until > now + 2 * LOOK_AGAIN:
            return False
        with self._session.write() as connection:
            connection.execute("DELETE FROM bell WHERE until <= ?", (now,))
            bell.list_under(connection, (RESULTS,), now + LISTED)
        self._listed_until = now + LISTED
        return True
