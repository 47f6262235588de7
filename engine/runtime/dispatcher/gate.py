"""Runs in the dispatcher: the gate of deliveries whose task may be running already. Main lane.

A broker whose claims end with the connection (RabbitMQ) delivers again, at once, what still runs. Such a delivery waits
here until it is known what became of the run before it:

- It is in hand here: the run takes over the new claim, and its end settles it.
- It ended here, but the settlement came too late: the new claim is settled as the old one was to be.
- The task's record says that it ended, or was retried further: acknowledged and dropped.
- A mark says that another worker has it, and the mark moves, and the worker's lock is held: look again later.
- Otherwise it runs, marked, so that others wait for us; one that is marked and came too often is a dead letter. (That
  a connection is lost is a delivery there: it says nothing of a run that goes on, nor of what was never begun.)

Marks are records of their own (``gate:<id>``), kept in the result backend: what users see of a task is not overwritten,
and a task whose result is ignored has one too. A worker marks what it runs when it loses its connection. Without a
result backend only what this dispatcher itself knows decides.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from engine.contract.liveness import GRACE, lock_is_free
from engine.contract.message import Message
from engine.contract.results import Record
from engine.contract.transport import Ack, Again, Dead, Settlement, Worker
from engine.runtime.dispatcher.crew import Crew, Run
from engine.runtime.dispatcher.fetch import MAX_DELIVERIES
from engine.runtime.dispatcher.filters import facts_of
from engine.runtime.dispatcher.handout import Handoff, Held
from engine.runtime.dispatcher.settle import Item, Settler

log = logging.getLogger("engine.dispatcher")

HOLD = 1.0
"""Seconds between two looks. Before the first, whoever has the run marks it: a dispatcher that was killed is replaced,
and connected, sooner."""
PATIENCE = 4.0
"""Further seconds that may pass before what no child has taken goes back: it would have to wait at a gate again."""
RECENT = 10.0
"""Seconds for which the broker may have lost an acknowledgement that it has confirmed."""
REMEMBERED = 600.0
"""Seconds for which an end is remembered, here and by its mark."""
_MOST_MARKS = 10_000
_STATE = "GATE"

Look: TypeAlias = Callable[[list[str], Callable[[Mapping[str, Record] | None], None]], None]
"""Gets records in the publish lane, and makes the call in the main lane; with None when they cannot be read now."""
Store: TypeAlias = Callable[[Sequence[Record], Callable[[], None]], None]


class Mark(msgspec.Struct, omit_defaults=True):
    """The body of a mark."""

    owner: str
    retries: int | None = None
    """Of the run; None: not known, as it was begun by a dispatcher that died."""
    done: bool = False
    lock: str = ""
    boot_id: str = ""
    """Of the owner, as in `Worker`: on the same host its death is seen at once."""


class _Waiting:
    """A delivery at the gate."""

    __slots__ = ("held", "look_at", "looking", "moved", "seen")

    def __init__(self, held: Held, now: float) -> None:
        self.held = held
        self.look_at = now if held.delivery.copied else now + HOLD
        self.looking = False
        self.seen = 0.0
        """The stamp of somebody else's mark."""
        self.moved = now
        """When that was seen to move."""


class Gate:
    """What waits, and what is known of runs whose claims were lost."""

    def __init__(self, crew: Crew, handoff: Handoff, settler: Settler, worker: Worker) -> None:
        self.active = False
        """Do the broker's claims end with the connection? If not, nothing ever waits here."""
        self.look: Look | None = None
        """None: there is no result backend."""
        self.store: Store = lambda records, then: then()
        self.bury: Callable[[Held, str], None] = lambda held, reason: None
        """Ends a message as a dead letter."""
        self._crew = crew
        self._handoff = handoff
        self._settler = settler
        self._worker = worker.id
        self._lock = worker.lock
        self._boot_id = worker.boot_id
        self._dead_after = worker.dead_after
        self._unlocked: dict[str, float] = {}
        """Owners of marks whose lock is free: since when."""
        self._waiting: dict[bytes, _Waiting] = {}
        self._lost: set[bytes] = set()
        self._swapped: dict[bytes, bytes] = {}
        self._marks: dict[str, int | None] = {}
        self._ended: dict[str, tuple[int, Settlement, float]] = {}
        self._recent: deque[tuple[float, list[tuple[str, int, bool]]]] = deque()
        """What was settled lately: when, and (id, retries, does a record tell that it ended?)."""
        self._removals: deque[tuple[float, list[str]]] = deque()
        self._beat_at = 0.0

    # What comes and goes.

    def admit(self, held: list[Held]) -> list[Held]:
        """Returns what may be handed out now; the rest waits here."""
        if not any(one.delivery.gate for one in held):
            return held
        now = time.monotonic()
        for one in held:
            if one.delivery.gate:
                self._waiting[one.claim] = _Waiting(one, now)
        self.update(now)
        return [one for one in held if not one.delivery.gate]

    @property
    def waiting(self) -> int:
        """Returns how many wait here."""
        return len(self._waiting)

    def claims(self) -> set[bytes]:
        """Returns the claims of what waits, and those that runs have taken over."""
        return {*self._waiting, *self._swapped.values()}

    def take(self, is_wanted: Callable[[Held], bool] = lambda held: True) -> list[Held]:
        """Takes out what waits and is wanted: it is the caller's now."""
        taken = [waiting.held for waiting in self._waiting.values() if is_wanted(waiting.held)]
        for held in taken:
            del self._waiting[held.claim]
        return taken

    def translate(self, items: Iterable[Item]) -> None:
        """Puts the claims that runs have taken over in the place of their own."""
        if self._swapped:
            for item in items:
                claim = self._swapped.pop(item.claim, None) if item.claim else None
                if claim is not None and item.settlement is not None:
                    item.settlement = msgspec.structs.replace(item.settlement, claim=claim)

    # Lost connections.

    def disconnected(self) -> None:
        """The connection was lost, and the claims with it: tells others what runs here, and what has just ended."""
        if not self.active:
            return
        now = time.monotonic()
        for run in self._runs().values():
            held = self._handoff.inflight.get(run.sequence)
            self._marks[run.id] = None if held is None else held.message.retries
        done = self._forget_recent(now)
        self._store_marks({**{id: (retries, False) for id, retries in self._marks.items()}, **done})
        self._beat_at = now + self._dead_after / 10

    def reconciled(self, lost: Iterable[bytes]) -> None:
        """The claims were compared: these are gone, and what waited under them."""
        if not self.active:
            return
        self._lost = set(lost)
        for claim in self._lost:
            self._waiting.pop(claim, None)
        kept = {run.id for run in self._runs().values() if self._claim_of(run) not in self._lost}
        self._marks = {id: retries for id, retries in self._marks.items() if id not in kept}

    def settled(self, items: Sequence[Item], stale: frozenset[bytes]) -> None:
        """Runs have ended; the settlements of ``stale`` claims were refused."""
        if not self.active:
            return
        now = time.monotonic()
        self._recent.append((now, [one for item in items if (one := _finished(item)) is not None]))
        while self._recent and self._recent[0][0] < now - RECENT:
            self._recent.popleft()
        if not stale and not self._marks:
            return
        done: dict[str, tuple[int | None, bool]] = {}
        gone: list[str] = []
        for item in items:
            settlement = item.settlement
            refused = item.claim in stale
            if settlement is None or not (refused or item.id in self._marks):
                continue
            self._marks.pop(item.id, None)
            retries = _retries(item)
            if refused and retries is not None:
                self._ended[item.id] = (retries, settlement, now)
            if isinstance(settlement, Ack | Dead) or (isinstance(settlement, Again) and not refused):
                done[item.id] = (retries, True)
            else:
                gone.append(item.id)
        self._store_marks(done)
        self._remove(gone)

    def update(self, now: float) -> None:
        """Decides, looks and stamps what is due. Once a turn of the main loop."""
        if self._waiting:
            self._decide(now)
            self._look_up(now)
        if self._marks and now >= self._beat_at:
            self._beat_at = now + self._dead_after / 10
            here = {run.id for run in self._runs().values()} | {
                held.message.id for held in self._handoff.inflight.values()
            }
            self._marks = {id: retries for id, retries in self._marks.items() if id in here}
            self._store_marks({id: (retries, False) for id, retries in self._marks.items()})
        while self._removals and self._removals[0][0] <= now:
            self._remove(self._removals.popleft()[1])

    # Decisions.

    def _decide(self, now: float) -> None:
        """Settles what is known here."""
        runs = self._runs()
        for claim, waiting in list(self._waiting.items()):
            message = waiting.held.message
            run = runs.get(message.id)
            if run is not None:
                if self._claim_of(run) in self._lost:
                    self._take_over(waiting.held, run)
                    del self._waiting[claim]
                else:
                    waiting.look_at = now + HOLD  # the same task, sent twice: it waits for the end of that run
            elif message.id in self._marks:
                waiting.look_at = now + HOLD  # another copy of it is about to run
            elif (ended := self._ended.get(message.id)) is not None and ended[0] >= message.retries:
                del self._waiting[claim]
                self._end(waiting.held, ended[1] if ended[0] == message.retries else Ack(claim), "it ended here")

    def _take_over(self, held: Held, run: Run) -> None:
        """The run that goes on gets the new claim."""
        known = self._handoff.inflight.get(run.sequence)
        if known is None:
            known = Held(msgspec.structs.replace(held.delivery, claim=run.claim), held.message, held.info, held.came)
            self._handoff.adopt(known, run.sequence)
        self._swapped[known.claim] = held.claim
        log.info("task came again while it runs here: it runs on", extra=held.fields)

    def _end(self, held: Held, settlement: Settlement, why: str) -> None:
        log.info("message of a task that came again is settled, not run: %s", why, extra=held.fields)
        changed = msgspec.structs.replace(settlement, claim=held.claim, record=None)
        message = held.message
        self._settler.submit([Item(message.task, message.id, changed, facts=facts_of(message, held.delivery))])

    def _look_up(self, now: float) -> None:
        due = [one for one in self._waiting.values() if now >= one.look_at and not one.looking]
        if not due:
            return
        if self.look is None:
            for waiting in due:
                self._pass(waiting, begun=True)
            return
        ids = [waiting.held.message.id for waiting in due]
        for waiting in due:
            waiting.looking = True
        self.look([*ids, *map(_mark_id, ids)], lambda records: self._found(due, records))

    def _found(self, due: list[_Waiting], records: Mapping[str, Record] | None) -> None:
        now = time.monotonic()
        for waiting in due:
            waiting.looking = False
            waiting.look_at = now + HOLD
            if records is None or waiting.held.claim not in self._waiting:
                continue
            message = waiting.held.message
            if message.id in self._marks:
                continue  # another copy of it has just passed
            found = records.get(_mark_id(message.id))
            mark = _body(found)
            verdict = judge(message, records.get(message.id), mark, self._worker)
            if verdict == "wait" and found is not None and mark is not None:
                if found.sent != waiting.seen:
                    waiting.seen, waiting.moved = found.sent, now
                if not self._is_dead(mark, waiting, now) and now - waiting.moved < self._dead_after:
                    continue
                log.warning(
                    "task came again, and the worker that ran it is silent: it runs again", extra=waiting.held.fields
                )
            if verdict == "drop":
                del self._waiting[waiting.held.claim]
                self._end(waiting.held, Ack(b""), "it has ended")
            else:
                self._pass(waiting, begun=found is not None)

    def _is_dead(self, mark: Mark, waiting: _Waiting, now: float) -> bool:
        """Is the lock of this host's worker free, and was it `GRACE` seconds ago?"""
        if mark.boot_id != self._boot_id or not lock_is_free(mark.lock):
            self._unlocked.pop(mark.owner, None)
            return False
        if now - self._unlocked.setdefault(mark.owner, now) >= GRACE:
            return True
        waiting.look_at = now + GRACE
        return False

    def _pass(self, waiting: _Waiting, *, begun: bool) -> None:
        """Lets it run, marked as ours first; not one that may have ``begun`` each of too many times."""
        held = waiting.held
        del self._waiting[held.claim]
        if begun and held.deliveries > MAX_DELIVERIES:
            self.bury(held, f"delivery limit: its worker was lost in {held.deliveries - 1} deliveries")
            return
        message = held.message
        if self.look is None:
            self._hand_out(held)
            return
        self._marks[message.id] = message.retries
        self._store_marks({message.id: (message.retries, False)}, lambda: self._hand_out(held))

    def _hand_out(self, held: Held) -> None:
        if held.claim not in self._lost:
            held.came = time.monotonic() + PATIENCE
            self._handoff.add([held])

    # Marks.

    def _store_marks(
        self, marks: Mapping[str, tuple[int | None, bool]], then: Callable[[], None] = lambda: None
    ) -> None:
        if self.look is None or not marks:
            then()
            return
        stamp = time.time()
        encode = msgspec.json.encode
        self.store(
            [
                Record(_mark_id(id), _STATE, stamp, 0, 0, encode(self._mark(retries, done)), final=done)
                for id, (retries, done) in marks.items()
            ],
            then,
        )
        done = [id for id, (_, done) in marks.items() if done]
        if done:
            self._removals.append((time.monotonic() + REMEMBERED, done))

    def _mark(self, retries: int | None, done: bool) -> Mark:
        return Mark(self._worker, retries, done, self._lock, self._boot_id)

    def _remove(self, ids: Iterable[str]) -> None:
        """Removes marks, unless they are ours again."""
        stamp = time.time()
        records = [Record(_mark_id(id), _STATE, stamp, 0, 0, b"", keep=False) for id in ids if id not in self._marks]
        if records and self.look is not None:
            self.store(records, lambda: None)

    def _forget_recent(self, now: float) -> dict[str, tuple[int | None, bool]]:
        """Remembers what was settled in the last seconds as ended; returns what no record tells to others."""
        self._ended = {id: end for id, end in self._ended.items() if end[2] > now - REMEMBERED}
        done: dict[str, tuple[int | None, bool]] = {}
        for _, ends in self._recent:
            for id, retries, is_told in ends:
                self._ended[id] = (retries, Ack(b""), now)
                if not is_told:
                    done[id] = (retries, True)
        self._recent.clear()
        return dict(list(done.items())[-_MOST_MARKS:])

    # What is in hand.

    def _runs(self) -> dict[str, Run]:
        ended = self._crew.ended
        return {run.id: run for run in self._crew.running() if run.claim and ended[run.slot] < run.sequence}

    def _claim_of(self, run: Run) -> bytes:
        return self._swapped.get(run.claim, run.claim)


def judge(message: Message, record: Record | None, mark: Mark | None, worker: str) -> Literal["run", "wait", "drop"]:
    """Says what to do with a message that came again, by what the result backend tells of its task."""
    if record is not None:
        mine, theirs = (message.sent, message.retries), (record.sent, record.retries)
        if theirs > mine or (theirs == mine and record.final):
            return "drop"
    if mark is None or (mark.owner == worker and not mark.done):
        return "run"
    if mark.done:
        return "drop" if mark.retries is not None and mark.retries >= message.retries else "run"
    return "wait"


def _retries(item: Item) -> int | None:
    """Returns which retry of its task an item ends; None: it ends no run."""
    if item.outcome is not None:
        return item.outcome.retries
    return item.facts[1] if item.facts is not None and item.started else None


def _finished(item: Item) -> tuple[str, int, bool] | None:
    """Returns what to keep of an item for a while, if it ended a delivery."""
    retries = _retries(item)
    if retries is None or not isinstance(item.settlement, Ack | Again | Dead):
        return None
    return item.id, retries, item.record is not None and item.record.final


def _mark_id(id: str) -> str:
    return f"gate:{id}"


def _body(record: Record | None) -> Mark | None:
    if record is None:
        return None
    try:
        return msgspec.json.decode(record.body, type=Mark)
    except msgspec.MsgspecError:
        return None
