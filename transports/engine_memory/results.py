"""``MemoryResults``: the result backend of ``memory://``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from engine.contract import Record, ResultBackend
from engine_memory.broker import Broker, broker_of


class MemoryResults(ResultBackend):
    """Keeps records in the memory of this process, beside the broker of the same URL. Any thread may call it."""

    in_process: ClassVar[bool] = True

    @property
    def _broker(self) -> Broker:
        return broker_of(self.url)

    def store(self, records: Sequence[Record]) -> None:
        """See `ResultBackend.store`."""
        broker = self._broker
        with broker.changed:
            broker.records.store(records, self.expires)
            broker.changed.notify_all()

    def get(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """See `ResultBackend.get`."""
        broker = self._broker
        with broker.changed:
            return broker.records.get(ids)

    def wait(self, ids: Sequence[str], timeout: float) -> Iterator[Record]:
        """See `ResultBackend.wait`. No thread is held up between two records."""
        deadline = time.monotonic() + timeout
        missing = set(ids)
        while missing:
            ended = self._ended(missing, deadline)
            if not ended:
                return
            missing.difference_update(record.id for record in ended)
            yield from ended

    def forget(self, ids: Sequence[str]) -> None:
        """See `ResultBackend.forget`."""
        broker = self._broker
        with broker.changed:
            broker.records.forget(ids)

    def close(self) -> None:
        """Does nothing: the records belong to the process."""

    def _ended(self, ids: set[str], deadline: float) -> list[Record]:
        broker = self._broker
        with broker.changed:
            while True:
                ended = [record for record in broker.records.get(ids).values() if record.final]
                left = deadline - time.monotonic()
                if ended or left <= 0:
                    return ended
                broker.changed.wait(left)
