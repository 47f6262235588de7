"""Runs in the dispatcher: the broker and the result backend, and the consumer that two lanes share."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from engine.contract.results import ResultBackend
from engine.contract.transport import Consumer, Transport, Worker
from engine.runtime.dispatcher.lanes import Outage


class Link:
    """The connections of one dispatcher.

    A lane takes the `consumer` for each call. When a call fails because the connection does, it says `lost`: the
    consumer is dropped, never closed (a goodbye would give back what children still run), and the next one connects in
    its lanes, at its first use.
    """

    def __init__(
        self, transport: Transport, results: ResultBackend | None, queues: Sequence[str], worker: Worker
    ) -> None:
        self.transport = transport
        self.results = results
        self.worker = worker
        self.shared = results is not None and transport.share_results(results)
        """Does ``settle`` store records itself?"""
        self.broker_outage = Outage("broker")
        self.results_outage = Outage("result backend")
        self._queues = tuple(queues)
        self._lock = threading.Lock()
        self._consumer = transport.consume(self._queues, worker)

    @property
    def consumer(self) -> Consumer:
        """The consumer to use now. Another object than last time means: reconcile."""
        return self._consumer

    def lost(self, consumer: Consumer) -> None:
        """Says that a call to this consumer found the connection gone. Any lane; only the first to say it counts."""
        with self._lock:
            if consumer is self._consumer:
                self._consumer = self.transport.consume(self._queues, self.worker)
                consumer.wake()

    def change_queues(self, queues: Sequence[str]) -> None:
        """Fetches from other queues from now on, with another consumer. Main lane, at a reload."""
        with self._lock:
            if tuple(queues) == self._queues:
                return
            self._queues = tuple(queues)
            before, self._consumer = self._consumer, self.transport.consume(self._queues, self.worker)
            before.wake()

    def close(self) -> None:
        """Closes transport and backend."""
        self.transport.close()
        if self.results is not None:
            self.results.close()
