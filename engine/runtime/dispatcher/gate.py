"""Runs in the dispatcher: the gate of deliveries whose task may be running already. Main lane.

A broker whose claims end with the connection (RabbitMQ) delivers again, at once, what still runs. Such a delivery waits
here until it is known what became of the run before it. The first of these rules that fits decides:

1. It runs here. If the run's claim is gone, the run takes over the new one, and its end settles that. If not, the same
   task was sent twice: it waits for the end of the run.
2. Another delivery of it is in hand here, or an end is on its way to the broker: it waits for that.
3. It ended here, and the settlement came too late: the new claim is settled as the old one was to be.
4. The task's record or a mark says that it has ended, or was retried further: acknowledged and dropped. A mark says
   that it ended to be retried, and nobody could settle that: its retry is sent now.
5. A mark says that its child died, when no dispatcher was there to settle that: the death is judged now.
6. A mark says that another worker has it. While that lives, and the mark moves, it waits. When the worker is dead, a
   run that had begun counts a crash, as if its child had died; one that had not begun counts nothing, and runs.
7. Otherwise it is marked as ours, and runs: when no mark says who had it, after `HOLD`.

Each is looked at when it comes, when its next look is due, and when something is learnt of its task. Rules 1 to 3 need
only what is known here; for the others records and marks are looked up, of many tasks in one call. Without a result
backend there are none, and the first three rules and the last decide.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from engine.contract.liveness import GRACE, lock_is_free
from engine.contract.message import Message
from engine.contract.results import Record
from engine.contract.transport import Ack, Again, Dead, Settlement, Worker
from engine.runtime.dispatcher import marks
from engine.runtime.dispatcher.candidates import NEVER, Candidate, Candidates
from engine.runtime.dispatcher.crew import Crew, Run
from engine.runtime.dispatcher.endings import Endings
from engine.runtime.dispatcher.filters import ended_by
from engine.runtime.dispatcher.handout import Handoff, Held
from engine.runtime.dispatcher.lost_runs import LostRuns
from engine.runtime.dispatcher.marks import Mark, Marks
from engine.runtime.dispatcher.settle import Item, Settler

log = logging.getLogger("engine.dispatcher")

HOLD = 1.0
"""Seconds for which what may run elsewhere waits for a mark; and between two looks. Until then whoever has the run has
marked it: a dispatcher that was killed is replaced, and connected, sooner."""
BEGUN_EVERY = 0.02
"""Seconds between two looks at the board for what has passed the gate and not begun."""
PATIENCE = 4.0
"""Further seconds that may pass before what no child has taken goes back: it would have to wait at a gate again."""
LOOKED_UP_AT_ONCE = 500
"""Most tasks that are looked up in one call."""

Look: TypeAlias = Callable[[list[str], Callable[[Mapping[str, Record] | None], None]], None]
"""Gets records in the publish lane, and makes the call in the main lane; with None when they cannot be read now."""


class _Known(NamedTuple):
    """What this dispatcher has in hand, at one moment."""

    runs: Mapping[str, Run]
    """By task: what children run, and has not ended."""
    in_hand: Collection[str]
    """Tasks that were handed out, or are about to be."""


class Gate:
    """Who waits, and what is decided."""

    def __init__(
        self,
        crew: Crew,
        handoff: Handoff,
        settler: Settler,
        lost: LostRuns,
        worker: Worker,
        *,
        active: bool,
        look: Look | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``active``: do the broker's claims end with the connection? If not, nothing ever waits here. ``look`` is None
        when there is no result backend: then there are no marks either."""
        self.active = active
        self.marks = Marks(worker, None if look is None else settler.store, clock)
        self.endings = Endings(told_by_records=look is not None)
        self._crew = crew
        self._handoff = handoff
        self._settler = settler
        self._lost_runs = lost
        self._worker = worker
        self._clock = clock
        self._look = look
        self._candidates = Candidates()
        self._passing: dict[bytes, Held] = {}
        """By claim: what leaves once its mark is stored, or removed."""
        self._lost: set[bytes] = set()
        """Claims that were gone at the last comparison."""
        self._returning: dict[str, int] = {}
        """By id: deliveries of what was in hand, and had not begun, when its claim was lost."""
        self._unlocked: dict[str, float] = {}
        """Owners of marks whose lock is free: since when."""
        self._board_at = 0.0

    # What comes and goes.

    def admit(self, held: list[Held]) -> list[Held]:
        """Returns what may be handed out now; the rest waits here."""
        came = [one for one in held if one.delivery.gate] if self.active else ()
        if not came:
            return held
        first = [one for one in held if not one.delivery.gate]
        now, known = self._clock(), self._known({one.message.id for one in first})
        for one in came:
            candidate = self._candidates.add(one, now if self._needs_no_hold(one) else now + HOLD)
            if not self._decide(candidate, known, now):
                self._candidates.schedule(candidate, now)
        self.update(now)
        return first

    @property
    def waiting(self) -> int:
        """Returns how many wait here."""
        return len(self._candidates) + len(self._passing)

    def claims(self) -> set[bytes]:
        """Returns the claims of what waits, and those that runs have taken over."""
        return {*self._candidates.claims(), *self._passing, *self._settler.swapped.values()}

    def take(self, is_wanted: Callable[[Held], bool] = lambda held: True) -> list[Held]:
        """Takes out what waits and is wanted: it is the caller's now."""
        taken = [held for held in self._passing.values() if is_wanted(held)]
        for held in taken:
            del self._passing[held.claim]
        for candidate in self._candidates.all():
            if is_wanted(candidate.held):
                self._candidates.remove(candidate)
                taken.append(candidate.held)
        return taken

    def update(self, now: float) -> None:
        """Looks and stamps, where that is due. Once a turn of the main loop."""
        if not self.active:
            return
        if due := self._candidates.due(now):
            self._look_at(due, now)
        if self.marks.unbegun and now >= self._board_at:
            self._board_at = now + BEGUN_EVERY
            running = self._running()
            self.marks.begin({id: running[id] for id in self.marks.unbegun & running.keys()})
        if now >= self.marks.beat_at:
            self.marks.beat(now, self._begun(), self._in_hand())
            self.endings.prune(now)

    def rest(self, now: float) -> float:
        """Returns how many seconds may pass until the next `update`."""
        if not self.active:
            return NEVER
        board_at = self._board_at if self.marks.unbegun else NEVER
        beat_at = self.marks.beat_at if self.marks else NEVER
        return max(0.0, min(self._candidates.next_due(), board_at, beat_at) - now)

    # What is learnt.

    def disconnected(self) -> None:
        """The connection was lost, and the claims with it: tells others what runs here, and what has just ended."""
        if self.active:
            # In this order: of a task that ended to be retried, the next run may have begun.
            self.marks.end(self.endings.connection_lost(self._clock()))
            self.marks.begin(self._begun())

    def reconciled(self, lost: Iterable[bytes], dropped: Iterable[Held]) -> None:
        """The claims were compared: these are gone. ``dropped`` was in hand under them, and had not begun."""
        if not self.active:
            return
        self._lost = set(lost)
        passing = [held for claim, held in self._passing.items() if claim in self._lost]
        self._returning = {held.message.id: held.deliveries for held in (*dropped, *passing)}
        self.take(lambda held: held.claim in self._lost)
        self.marks.end({}, [id for id in self._returning if id in self.marks.unbegun])

    def settled(self, items: Sequence[Item], stale: frozenset[bytes]) -> None:
        """Runs have ended; the settlements of ``stale`` claims were refused."""
        if not self.active:
            return
        now = self._clock()
        self.endings.acknowledged([item for item in items if item.claim not in stale] if stale else items, now)
        if not (stale or self.marks or self._candidates):
            return
        done: dict[str, int | None] = {}
        gone: list[str] = []
        for item in items:
            is_stale, waits, is_marked = item.claim in stale, self._candidates.of(item.id), item.id in self.marks
            if item.settlement is None or not (is_stale or waits or is_marked):
                continue
            self.endings.settled(item, now, is_stale=is_stale)
            for candidate in waits:
                self._hurry(candidate, now)
            if item.ended is not None and self.marks.is_ahead(item.id, item.ended.retries):
                continue  # a later run of the task is in hand: the mark is its
            if is_stale and isinstance(item.settlement, Again) and item.retries is not None:
                self.marks.retry(item.id, item.retries, item.settlement.envelope)
            elif self._is_done(item, is_stale) and (is_marked or (is_stale and item.retries is not None)):
                done[item.id] = item.retries
            elif is_marked:
                gone.append(item.id)
        self.marks.end(done, gone)

    # Decisions.

    def _look_at(self, due: Sequence[Candidate], now: float) -> None:
        known = self._known()
        unknown = [candidate for candidate in due if not self._decide(candidate, known, now)]
        if self._look is None:
            for candidate in unknown:
                if not self._decide(candidate, known, now):  # of two copies the first has just passed
                    self._pass_unknown(candidate, 0.0, now)
            return
        for start in range(0, len(unknown), LOOKED_UP_AT_ONCE):
            self._look_up(self._look, unknown[start : start + LOOKED_UP_AT_ONCE])

    def _look_up(self, look: Look, batch: Sequence[Candidate]) -> None:
        ids = [candidate.held.message.id for candidate in batch]
        look([*ids, *map(marks.mark_id, ids)], lambda records: self._found(batch, records))

    def _found(self, batch: Sequence[Candidate], records: Mapping[str, Record] | None) -> None:
        now, known = self._clock(), self._known()
        for candidate in batch:
            if candidate not in self._candidates:
                continue
            if records is None:
                self._candidates.schedule(candidate, now + HOLD)
            elif not self._decide(candidate, known, now):
                self._decide_by_records(candidate, records, now)

    def _decide(self, candidate: Candidate, known: _Known, now: float) -> bool:
        """Decides by what is known here: rules 1 to 3. False: that is not enough."""
        held = candidate.held
        id, run = held.message.id, known.runs.get(held.message.id)
        if run is not None and self._claim_of(run) in self._lost:
            self._candidates.remove(candidate)
            self._take_over(held, run)
        elif run is not None or id in self.marks or id in known.in_hand:
            self._candidates.schedule(candidate, now + HOLD)
        elif (settlement := self.endings.settlement_of(held.message)) is not None:
            self._candidates.remove(candidate)
            self._settle(held, settlement, "it ended here")
        else:
            return False
        return True

    def _decide_by_records(self, candidate: Candidate, records: Mapping[str, Record], now: float) -> None:
        """Decides by what the result backend tells: rules 4 to 7."""
        held = candidate.held
        id = held.message.id
        found = records.get(marks.mark_id(id))
        mark, stamp = marks.read(found), 0.0 if found is None else found.sent
        verdict = judge(held.message, records.get(id), mark, self._worker.id)
        if verdict == "drop":
            self._candidates.remove(candidate)
            self._settle(held, Ack(b""), "it has ended")
        elif verdict == "retry" and mark is not None and mark.again is not None:
            self._candidates.remove(candidate)
            self._settle(held, Again(b"", mark.again), "it ended to be retried")
        elif verdict == "unknown" or mark is None:
            self._pass_unknown(candidate, stamp, now)
        elif verdict == "run":
            self._pass(candidate, stamp)
        elif mark.death is not None:
            death = mark.death
            self._leave(candidate)
            self.marks.remove([id], lambda: self._go_on(held, lambda held: self._lost_runs.died(held, death)))
        elif not self._is_dead(mark, stamp, candidate, now):
            if candidate.due == NEVER:
                self._candidates.schedule(candidate, now + HOLD)
        elif mark.begun:
            self._leave(candidate)
            self.marks.remove([id], lambda: self._go_on(held, self._lost_runs.worker_died))
        else:
            log.info("task came again, and the worker that had it is dead: it had not begun", extra=held.fields)
            self._pass(candidate, stamp)

    def _is_dead(self, mark: Mark, stamp: float, candidate: Candidate, now: float) -> bool:
        """Is the owner of a mark dead? On another host: its mark has not moved for ``dead_after`` seconds. On this
        host also: it belongs to an earlier boot, or its lock is free now and was so `GRACE` seconds ago."""
        if stamp != candidate.stamp:
            candidate.stamp, candidate.moved = stamp, now
        me = self._worker
        if now - candidate.moved >= me.dead_after or (mark.host == me.host and mark.boot_id != me.boot_id):
            return True
        if mark.boot_id != me.boot_id or not lock_is_free(mark.lock):
            self._unlocked.pop(mark.owner, None)
            return False
        since = self._unlocked.setdefault(mark.owner, now)
        if now - since < GRACE:
            self._candidates.schedule(candidate, since + GRACE)
        return now - since >= GRACE

    def _take_over(self, held: Held, run: Run) -> None:
        """The run that goes on gets the new claim."""
        known = self._handoff.inflight.get(run.sequence)
        if known is None:
            known = Held(msgspec.structs.replace(held.delivery, claim=run.claim), held.message, held.info, held.came)
            self._handoff.adopt(known, run.sequence)
        self._settler.swapped[known.claim] = held.claim
        log.info("task came again while it runs here: it runs on", extra=held.fields)

    def _settle(self, held: Held, settlement: Settlement, why: str) -> None:
        log.debug("message of a task that came again is settled, not run: %s", why, extra=held.fields)
        changed = msgspec.structs.replace(settlement, claim=held.claim, record=None)
        message = held.message
        self._settler.submit([Item(message.task, message.id, changed, ended_by(message, held.delivery))])

    def _pass_unknown(self, candidate: Candidate, stamp: float, now: float) -> None:
        """Lets it run if whoever has it would have told by now."""
        if now >= candidate.hold_until:
            self._pass(candidate, stamp)
        else:
            self._candidates.schedule(candidate, candidate.hold_until)

    def _pass(self, candidate: Candidate, stamp: float) -> None:
        """Lets it run, once it is marked as ours, over a mark of this stamp."""
        held = candidate.held
        self._leave(candidate)
        self.marks.hold(held.message.id, held.message.retries, stamp, lambda: self._go_on(held, self._hand_out))

    def _leave(self, candidate: Candidate) -> None:
        self._candidates.remove(candidate)
        self._passing[candidate.held.claim] = candidate.held

    def _go_on(self, held: Held, then: Callable[[Held], None]) -> None:
        """Goes on with what leaves, unless somebody took it meanwhile, or its claim was lost."""
        if self._passing.pop(held.claim, None) is not None:
            then(held)

    def _hand_out(self, held: Held) -> None:
        held.came = self._clock() + PATIENCE
        self._handoff.add([held])

    def _hurry(self, candidate: Candidate, now: float) -> None:
        """Has it looked at now, as something was learnt of its task. If its records are just being read, it is looked
        at when they are there."""
        if candidate.due != NEVER:
            self._candidates.schedule(candidate, now)

    # What is known.

    def _needs_no_hold(self, held: Held) -> bool:
        """May it run without waiting for `HOLD`? Yes, in two cases. It is here because another copy may be (`copied`):
        that copy passes a gate as well. Or it was in hand here, had not begun, and has just one delivery more than it
        had then: nobody else has had it in between."""
        return held.delivery.copied or self._returning.pop(held.message.id, -1) == held.deliveries - 1

    def _is_done(self, item: Item, is_stale: bool) -> bool:
        """Must a mark tell that this has ended? Not where a record does, nor where it is to run again."""
        again = isinstance(item.settlement, Again) and not is_stale
        return (again or isinstance(item.settlement, Ack | Dead)) and not self.endings.is_told(item)

    def _known(self, coming: Collection[str] = ()) -> _Known:
        return _Known(self._runs(), {*coming, *self._handoff.ids()})

    def _runs(self) -> dict[str, Run]:
        """Returns what children have in hand whose end has not been seen."""
        ended = self._crew.ended
        return {run.id: run for run in self._crew.running() if run.claim and ended[run.slot] < run.sequence}

    def _running(self) -> dict[str, int | None]:
        """Returns the tasks that children run, with their retries."""
        inflight = self._handoff.inflight
        known = {id: inflight.get(run.sequence) for id, run in self._runs().items()}
        return {id: None if held is None else held.message.retries for id, held in known.items()}

    def _begun(self) -> dict[str, int | None]:
        """Returns the tasks whose runs have begun and are not settled, with their retries."""
        settling = {item.id: item.retries for item in self._settler.unsettled() if item.started and item.claim}
        return {**settling, **self._running()}

    def _in_hand(self) -> set[str]:
        settling = [item.id for item in self._settler.unsettled()]
        return {*settling, *self._handoff.ids(), *(held.message.id for held in self._passing.values())}

    def _claim_of(self, run: Run) -> bytes:
        return self._settler.swapped.get(run.claim, run.claim)


Verdict: TypeAlias = Literal["run", "wait", "drop", "retry", "unknown"]


def judge(message: Message, record: Record | None, mark: Mark | None, worker: str) -> Verdict:
    """Says what to do with a message that came again, by what the result backend tells of its task. "wait": while the
    owner of the mark lives, unless it tells of a death; "retry": send what the mark holds; "unknown": nothing tells who
    had it."""
    if record is not None:
        mine, theirs = (message.sent, message.retries), (record.sent, record.retries)
        if theirs > mine or (theirs == mine and record.final):
            return "drop"
    if mark is None:
        return "unknown"
    if mark.retries is not None and mark.retries != message.retries:
        return "drop" if mark.retries > message.retries else "unknown"
    if mark.again is not None:
        return "retry"
    if mark.done:
        return "unknown" if mark.retries is None else "drop"
    # One of ours that is not in hand: the dispatcher before this one had it.
    return "run" if mark.owner == worker and mark.death is None else "wait"
