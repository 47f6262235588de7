"""Runs in the dispatcher: marks, by which workers tell each other what they have in hand. Main lane.

A mark is a record of its own (``gate:<id>``) in the result backend: what users see of a task is not overwritten, and a
task whose result is ignored has one too. Its stamp moves while its owner lives. It says whether the run has begun, so
that a worker's death counts as a crash of what it ran, and of nothing else. To a broker whose claims end with the
connection a mark is what `Consumer.renew` is to one that keeps them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from engine.app import wire
from engine.contract.message import Envelope
from engine.contract.results import Record
from engine.contract.transport import Worker
from engine.runtime.dispatcher.endings import REMEMBERED

MOST_DONE = 10_000
"""Ends that are marked at once: the latest."""
_STATE = "GATE"
_NEWER = 1e-6
"""Seconds by which our stamp is above that of the mark it takes the place of, also when its host's clock is ahead."""

Store: TypeAlias = Callable[[Sequence[Record], Callable[[], None]], None]
"""Has records stored, and makes the call when they are."""


class Mark(msgspec.Struct, omit_defaults=True):
    """The body of a mark."""

    owner: str
    retries: int | None = None
    """Of the run; None: not known, as it was handed out by a dispatcher that died."""
    begun: bool = False
    """Has a child begun it?"""
    done: bool = False
    again: Envelope | None = None
    """Where it is ``done``, to be retried, and the broker has not taken that: what to send in its place."""
    death: wire.Death | None = None
    """Of the child that ran it, while no dispatcher was there that could settle that."""
    host: str = ""
    lock: str = ""
    boot_id: str = ""
    """Of the owner, as in `Worker`: on the same host its death is seen at once."""


class Marks:
    """This worker's own marks."""

    def __init__(self, worker: Worker, store: Store | None, clock: Callable[[], float] = time.monotonic) -> None:
        """``store`` is None when there is no result backend: then nothing is marked."""
        self._store = store
        self.unbegun: set[str] = set()
        """Tasks that were handed out, and have not been seen to run."""
        self._worker = worker
        self._clock = clock
        self._ours: dict[str, Mark] = {}
        self._every = worker.dead_after / 10
        self.beat_at = 0.0
        """When to `beat`, in monotonic seconds."""
        self._stamp = 0.0
        """The latest that was written, or seen on another's mark."""
        self._removals: deque[tuple[float, list[str]]] = deque()

    def __contains__(self, id: str) -> bool:
        return id in self._ours

    def __len__(self) -> int:
        return len(self._ours)

    def is_ahead(self, id: str, retries: int) -> bool:
        """Is a later run of this task marked as ours?"""
        ours = self._ours.get(id)
        return ours is not None and ours.retries is not None and ours.retries > retries

    def hold(self, id: str, retries: int, above: float, then: Callable[[], None]) -> None:
        """Marks what is about to be handed out, over a mark whose stamp is ``above``; makes the call when others can
        see it."""
        mark = self._ours[id] = self._mark(retries)
        self.unbegun.add(id)
        self._stamp = max(self._stamp, above + _NEWER)
        self._write({id: mark}, then)

    def begin(self, runs: Mapping[str, int | None]) -> None:
        """Marks what a child has begun, with its retries. What is marked so stays as it is."""
        fresh: dict[str, Mark] = {}
        for id, retries in runs.items():
            mark = self._ours.get(id)
            if mark is None or not mark.begun:
                known = retries if mark is None or retries is not None else mark.retries
                fresh[id] = self._mark(known, begun=True)
        self._ours.update(fresh)
        self.unbegun.difference_update(fresh)
        self._write(fresh)

    def bury(self, death: wire.Death, then: Callable[[], None]) -> None:
        """Marks a run as ended by the death of its child, for whoever gets its message; makes the call when that is
        done."""
        self.forget([death.id])
        self._write({death.id: msgspec.structs.replace(self._mark(None, begun=True), death=death)}, then)

    def end(self, done: Mapping[str, int | None], gone: Collection[str] = ()) -> None:
        """Hears what has ended: ``done`` (with its retries) is not to run again for a while, ``gone`` may."""
        latest = {id: self._done(id, retries) for id, retries in list(done.items())[-MOST_DONE:]}
        self.forget([*done, *gone])
        self._write_ends(latest)
        if gone:
            self.remove(gone)

    def retry(self, id: str, retries: int, envelope: Envelope) -> None:
        """Hears what has ended to be retried, under a claim that was gone: whoever gets its message sends ``envelope``
        and does not run it, also after the death of this dispatcher."""
        mark = msgspec.structs.replace(self._done(id, retries), again=envelope)
        self.forget([id])
        self._write_ends({id: mark})

    def forget(self, ids: Iterable[str]) -> None:
        """Stamps these no more."""
        for id in ids:
            self._ours.pop(id, None)
            self.unbegun.discard(id)

    def remove(self, ids: Iterable[str], then: Callable[[], None] = lambda: None) -> None:
        """Removes marks, unless they are ours again; makes the call when they are gone."""
        stamp = self._next_stamp()
        gone = [Record(mark_id(id), _STATE, stamp, 0, 0, b"", keep=False) for id in ids if id not in self._ours]
        if gone and self._store is not None:
            self._store(gone, then)
        else:
            then()

    def beat(self, now: float, runs: Mapping[str, int | None], in_hand: Collection[str]) -> None:
        """Stamps what is ``in_hand``; ``runs`` (with their retries) have begun. Anything else is forgotten."""
        self.beat_at = now + self._every
        self.forget([id for id in self._ours if id not in in_hand and id not in runs])
        stamped = dict(self._ours)
        self.begin(runs)
        self._write({id: mark for id, mark in stamped.items() if mark is self._ours[id]})
        while self._removals and self._removals[0][0] <= now:
            self.remove(self._removals.popleft()[1])

    def _write_ends(self, ends: Mapping[str, Mark]) -> None:
        self._write(ends)
        if ends:
            self._removals.append((self._clock() + REMEMBERED, list(ends)))

    def _done(self, id: str, retries: int | None) -> Mark:
        ours = self._ours.get(id)
        return self._mark(ours.retries if retries is None and ours is not None else retries, done=True)

    def _mark(self, retries: int | None, *, begun: bool = False, done: bool = False) -> Mark:
        worker = self._worker
        return Mark(worker.id, retries, begun, done, host=worker.host, lock=worker.lock, boot_id=worker.boot_id)

    def _next_stamp(self) -> float:
        self._stamp = max(time.time(), self._stamp)
        return self._stamp

    def _write(self, marks: Mapping[str, Mark], then: Callable[[], None] = lambda: None) -> None:
        if self._store is None or not marks:
            then()
            return
        stamp, encode = self._next_stamp(), msgspec.json.encode
        records = [
            Record(mark_id(id), _STATE, stamp, 0, 0, encode(mark), final=mark.done) for id, mark in marks.items()
        ]
        self._store(records, then)


_decoder = msgspec.json.Decoder(Mark)


def mark_id(id: str) -> str:
    """Returns the id of a task's mark."""
    return f"gate:{id}"


def read(record: Record | None) -> Mark | None:
    """Returns the mark in a record; None for what is none."""
    if record is None:
        return None
    try:
        return _decoder.decode(record.body)
    except msgspec.MsgspecError:
        return None
