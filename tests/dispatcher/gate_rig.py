"""A gate with a board, a hand-off, a broker and a result backend that are the test's own, and a clock that it moves."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
from dispatcher_rig import NOOP, message

from engine.app import wire
from engine.contract import Delivery, Message, Record, Settlement, Worker
from engine.contract.results import SUCCESS
from engine.contract.transport import Ack
from engine.runtime.dispatcher import marks
from engine.runtime.dispatcher.crew import Crew, Run
from engine.runtime.dispatcher.gate import Gate
from engine.runtime.dispatcher.handout import Handoff, Held
from engine.runtime.dispatcher.lanes import Inbox
from engine.runtime.dispatcher.lost_runs import LostRuns
from engine.runtime.dispatcher.marks import Mark
from engine.runtime.dispatcher.publisher import Publisher
from engine.runtime.dispatcher.settle import Ended, Item, Settler


class Board:
    """The children, as a crew shows them."""

    def __init__(self) -> None:
        self.ended = [0] * 8
        self.runs: list[Run] = []

    def running(self) -> Iterator[Run]:
        """Yields what children have in hand."""
        return iter(list(self.runs))

    def newest(self) -> int:
        """Returns the highest sequence that a child has taken."""
        return max([run.sequence for run in self.runs], default=0)


class Backend:
    """Records, fenced as every backend does it. ``down``: it cannot be read; ``stalled``: answers wait for `answer`."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.looked_up: list[str] = []
        self.calls = 0
        self.down = False
        self.stalled = False
        self._answers: list[Callable[[], None]] = []

    def look(self, ids: list[str], then: Callable[[Mapping[str, Record] | None], None]) -> None:
        """Gets records."""
        self.calls += 1
        self.looked_up += [id for id in ids if not id.startswith("gate:")]
        found = None if self.down else {id: self.records[id] for id in ids if id in self.records}
        self._give(lambda: then(found))

    def store(self, records: Sequence[Record], then: Callable[[], None]) -> None:
        """Stores records."""
        for record in records:
            known = self.records.get(record.id)
            if known is None or record.order >= known.order:
                if record.keep:
                    self.records[record.id] = record
                else:
                    self.records.pop(record.id, None)
        self._give(then)

    def answer(self) -> None:
        """Gives the answers that wait."""
        while self._answers:
            self._answers.pop(0)()

    def mark(self, id: str) -> Mark | None:
        """Returns the mark of a task."""
        return marks.read(self.records.get(marks.mark_id(id)))

    def _give(self, answer: Callable[[], None]) -> None:
        self._answers.append(answer)
        if not self.stalled:
            self.answer()


class GateRig:
    """One worker's gate. ``handed``: what has passed; ``settled``: what the broker was told."""

    def __init__(
        self,
        folder: Path,
        name: str = "w1",
        backend: Backend | None = None,
        *,
        active: bool = True,
        keeps_results: bool = True,
    ) -> None:
        self.lock = folder / f"{name}.lock"
        self.lock.touch()
        self._held = self.lock.open()
        fcntl.flock(self._held, fcntl.LOCK_EX)
        self.worker = Worker(name, "host", "boot", str(self.lock), 3.0)
        self.now = time.monotonic()
        self.board = Board()
        self.backend = Backend() if backend is None else backend
        self.inbox: Inbox[Item] = Inbox()
        self.settler = Settler(self.inbox, Publisher(Inbox(), name, 1), claims_end_with_connection=True)
        # Records go to the backend of the test, and not by the settle lane.
        self.settler.store = self.backend.store  # type: ignore[method-assign]
        crew = cast(Crew, self.board)
        self.handoff = Handoff(crew, 1, preload=True)
        self.crashes: list[tuple[str, str]] = []
        self.deaths: list[tuple[str, str]] = []
        lost = SimpleNamespace(
            worker_died=lambda held: self.crashes.append((held.message.id, "its worker died")),
            died=lambda held, death: self.deaths.append((held.message.id, death.cause)),
        )
        self.gate = Gate(
            crew,
            self.handoff,
            self.settler,
            cast(LostRuns, lost),
            self.worker,
            active=active,
            look=self.backend.look if keeps_results else None,
            clock=lambda: self.now,
        )
        self._claims = 0

    def die(self) -> None:
        """Its supervisor is gone: the lock is free."""
        self._held.close()

    # Deliveries.

    def delivery(
        self, id: str, *, gate: bool = True, copied: bool = False, deliveries: int = 2, **fields: object
    ) -> Held:
        """Returns a delivery of a task."""
        self._claims += 1
        body = message(id, **fields)
        claim = b"%s.%d" % (self.worker.id.encode(), self._claims)
        delivery = Delivery(id, "default", body.encode(), claim, deliveries, gate=gate, copied=copied)
        return Held(delivery, body, NOOP, self.now)

    def come(self, *held: Held) -> list[Held]:
        """Has deliveries fetched."""
        self.handoff.add(self.gate.admit(list(held)))
        return list(held)

    def comes(self, id: str, **fields: object) -> Held:
        """Has one fetched that may be running already."""
        return self.come(self.delivery(id, **fields))[0]  # type: ignore[arg-type]

    @property
    def handed(self) -> list[str]:
        """The tasks that may be handed out."""
        return [held.message.id for held in self.handoff._backlog]

    def later(self, seconds: float) -> None:
        """Lets time pass, with a turn of the main loop every tenth of a second."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.1)
            self.gate.update(self.now)

    # Runs.

    def runs(self, held: Held, slot: int = 0) -> Run:
        """A child begins what was handed out."""
        if held in self.handoff._backlog:
            self.handoff._backlog.remove(held)
        run = Run(slot, 100 + self._claims, held.claim, held.message.id, 1, 0)
        self._claims += 1
        self.handoff.adopt(held, run.sequence)
        self.board.runs.append(run)
        return run

    def ends(self, run: Run, settlement: Settlement | None = None, *, final: bool = True) -> Item:
        """A run ends; its end waits for `settle`. ``final``: it leaves a record."""
        self.board.runs.remove(run)
        self.board.ended[run.slot] = run.sequence
        held = self.handoff.inflight.pop(run.sequence)
        record = record_of(held.message) if final else None
        if record is not None:
            self.backend.records[record.id] = record
        item = Item(
            held.message.task,
            held.message.id,
            settlement or Ack(run.claim, record),
            Ended("default", held.message.retries, held.deliveries, started=True),
        )
        self.settler.submit([item])
        return item

    def settle(self, *stale: bytes) -> list[Settlement]:
        """The broker is told what waits; returns that. It refuses these claims."""
        items = self.inbox.take(0.0)
        self.settler.settled(items, frozenset(stale))
        self.gate.settled(items, frozenset(stale))
        return [item.settlement for item in items if item.settlement is not None]

    # Faults.

    def lose_connection(self) -> list[bytes]:
        """The connection is lost and made again: all claims are gone."""
        self.gate.disconnected()
        lost = self.handoff.claims() | self.gate.claims() | {run.claim for run in self.board.runs}
        dropped, _ = self.handoff.forget(lost)
        self.gate.reconciled(lost, dropped)
        return sorted(lost)


def record_of(task: Message, state: str = SUCCESS, *, final: bool = True) -> Record:
    """Returns the record of a task."""
    return Record(task.id, state, task.sent, task.retries, 1, b"{}", final=final)


def death_of(run: Run) -> wire.Death:
    """Returns the death of a child in its run."""
    return wire.Death(run.slot, 4711, 1, run.number, run.sequence, run.id, run.claim, "died", "SIGKILL")


def without(mark: Mark, **fields: object) -> Mark:
    """Returns a mark with other fields."""
    return msgspec.structs.replace(mark, **fields)
