"""A broker and a result backend in lists, and a child's run, for tests of the app layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from engine import Engine, Task
from engine.app.execute import execute
from engine.app.wire import Outcome
from engine.contract import (
    Again,
    Batch,
    Capabilities,
    Consumer,
    DeadLetter,
    Envelope,
    Found,
    Message,
    QueueCounts,
    Record,
    ResultBackend,
    Scheduled,
    Transport,
    Worker,
)


class ListTransport(Transport):
    """Keeps what is published. ``failures`` are raised first, one for each publish."""

    capabilities = Capabilities(revokes=True, broadcasts=True, finds=True)

    def __init__(self) -> None:
        super().__init__("list://", options={})
        self.envelopes: list[Envelope] = []
        self.batches: list[Batch | None] = []
        self.failures: list[Exception] = []
        self.revoked: list[str] = []
        self.commands: list[bytes] = []

    def publish(self, envelopes: Sequence[Envelope], *, batch: Batch | None = None) -> None:
        self.batches.append(batch)
        if self.failures:
            raise self.failures.pop(0)
        self.envelopes.extend(envelopes)

    def take(self) -> Message:
        """Takes the oldest message."""
        return Message.decode(self.envelopes.pop(0).body)

    def revoke(self, ids: Sequence[str], until: float) -> Sequence[Found]:
        self.revoked += ids
        found = [Found(e.id, e.queue, "ready", body=e.body) for e in self.envelopes if e.id in ids]
        self.envelopes = [e for e in self.envelopes if e.id not in ids]
        return found

    def broadcast(self, command: bytes) -> None:
        self.commands.append(command)

    def find(self, id: str) -> Found | None:
        return next((Found(e.id, e.queue, "ready") for e in self.envelopes if e.id == id), None)

    def consume(self, queues: Sequence[str], worker: Worker) -> Consumer:
        raise NotImplementedError

    def counts(self, queues: Sequence[str] | None = None) -> Mapping[str, QueueCounts]:
        return {}

    def scheduled(self, limit: int = 100, queue: str | None = None) -> Sequence[Scheduled]:
        return []

    def dead(self, limit: int = 100, queue: str | None = None) -> Sequence[DeadLetter]:
        return []

    def dead_letter(self, id: str) -> DeadLetter | None:
        return None

    def replay(self, ids: Sequence[str]) -> int:
        return 0

    def drop(self, ids: Sequence[str]) -> int:
        return 0

    def purge(self, queue: str) -> int:
        return 0

    def pause(self, queue: str, paused: bool) -> None:
        return None

    def close(self) -> None:
        return None


class DictResults(ResultBackend):
    """Keeps records by id, the newest."""

    def __init__(self) -> None:
        super().__init__("dict://", expires=60.0, options={})
        self.records: dict[str, Record] = {}

    def store(self, records: Sequence[Record]) -> None:
        for record in records:
            kept = self.records.get(record.id)
            if kept is not None and kept.order > record.order:
                continue
            if record.keep:
                self.records[record.id] = record
            else:
                self.records.pop(record.id, None)

    def get(self, ids: Sequence[str]) -> Mapping[str, Record]:
        return {id: self.records[id] for id in ids if id in self.records}

    def wait(self, ids: Sequence[str], timeout: float) -> Iterator[Record]:
        return iter([record for record in self.get(ids).values() if record.final])

    def forget(self, ids: Sequence[str]) -> None:
        for id in ids:
            self.records.pop(id, None)

    def close(self) -> None:
        return None


class FakeRun:
    """A child's run of one delivery. ``interrupt`` is called in the middle of the function's call."""

    def __init__(self, claim: bytes = b"claim", deliveries: int = 1, crashes: int = 0) -> None:
        self.sequence = 7
        self.number = 3
        self.queue = "default"
        self.claim = claim
        self.deliveries = deliveries
        self.crashes = crashes
        self.hostname = "host"
        self.worker = "worker-1"
        self.is_eager = False
        self.interrupted: str | None = None
        self.tainted: str | None = None
        self.deliver: Callable[[BaseException], None] | None = None
        self.emitted: list[Record] = []
        self.before: Callable[[], None] | None = None

    def emit(self, record: Record) -> None:
        self.emitted.append(record)

    def invoke(self, call: Callable[[], Any]) -> Any:
        if self.before is not None:
            self.before()
        return call()

    def shield(self) -> AbstractContextManager[None]:
        return nullcontext()

    def time_left(self) -> float | None:
        return 12.5


class Bench:
    """An engine, its broker and backend, and a worker that runs what is in the queue."""

    def __init__(self, **options: Any) -> None:
        self.transport = ListTransport()
        self.results = DictResults()
        self.app = Engine("bench", **options)
        self.app.client.use(self.transport, self.results)

    def run(self, run: FakeRun | None = None) -> Outcome:
        """Runs the oldest message as a child does, and settles it as a dispatcher does."""
        run = run or FakeRun()
        message = self.transport.take()
        task = self.app.registered(message.task)
        outcome = execute(self.app, task, message, run)
        self.settle(run, outcome)
        return outcome

    def settle(self, run: FakeRun, outcome: Outcome) -> None:
        self.results.store(run.emitted)
        self.transport.envelopes += outcome.publishes
        if outcome.settlement.record is not None:
            self.results.store([outcome.settlement.record])
        if isinstance(outcome.settlement, Again):
            self.transport.envelopes.append(outcome.settlement.envelope)

    def run_all(self) -> list[Outcome]:
        """Runs until the queue is empty."""
        outcomes = []
        while self.transport.envelopes:
            outcomes.append(self.run())
        return outcomes


AnyTask = Task[..., Any]
