"""The broker itself: all state, under one lock."""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence

from engine.contract import (
    Ack,
    Again,
    Batch,
    Dead,
    DeadLetter,
    Delivery,
    Envelope,
    Found,
    Record,
    Release,
    Settlement,
    Worker,
)
from engine_memory.entry import CLAIMED, DELAYED, GONE, DeadEntry, Entry
from engine_memory.lines import Lines
from engine_memory.records import Records

PRODUCER_MEMORY = 3600.0
"""Seconds for which a producer's last number is remembered."""
LOOK_AGAIN = 0.5
"""Seconds after which a wait for a due time looks at the clock again, which may have been set."""
_COMMANDS_KEPT = 1000
_GONE_KEPT = 1000


class Member:
    """A worker and its claims."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.beat = 0
        self.claims: dict[bytes, Entry] = {}


class Broker:
    """What one URL stands for in one process. Every method is called with ``changed`` held."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.lines = Lines()
        self.alive: dict[str, Entry] = {}
        self.dead: dict[str, DeadEntry] = {}
        self.members: dict[str, Member] = {}
        self.revoked: dict[str, float] = {}
        self.paused: set[str] = set()
        self.records = Records()
        self.commands: deque[tuple[int, bytes]] = deque(maxlen=_COMMANDS_KEPT)
        self.command_number = 0
        self._producers: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._delayed: list[tuple[float, int, Entry]] = []
        self._gone = 0
        self._order = 0
        self._claim_number = 0

    def publish(self, envelopes: Iterable[Envelope], batch: Batch | None) -> None:
        """Adds messages, unless the batch was added before."""
        now = time.time()
        if batch is not None and not self._is_new(batch, now):
            return
        for envelope in envelopes:
            if envelope.id not in self.alive:
                self.add(Entry(envelope), now)
        self.changed.notify_all()

    def add(self, entry: Entry, now: float) -> None:
        """Adds one entry to the end of its queue, or to the delayed ones."""
        self.alive[entry.id] = entry
        self._order += 1
        entry.order = self._order
        if entry.due is not None and entry.due > now:
            self.delay(entry, entry.due)
        else:
            self.lines.append(entry)

    def delay(self, entry: Entry, due: float) -> None:
        """Puts an entry among the delayed ones."""
        entry.due = due
        entry.place = DELAYED
        heapq.heappush(self._delayed, (due, entry.order, entry))

    def until_due(self) -> float | None:
        """Returns the seconds until the next delayed message is due (at most `LOOK_AGAIN`), None if there is none."""
        while self._delayed and self._delayed[0][2].place == GONE:
            heapq.heappop(self._delayed)
            self._gone -= 1
        if not self._delayed:
            return None
        return min(max(self._delayed[0][0] - time.time(), 0.001), LOOK_AGAIN)

    def claim(self, member: Member, queues: frozenset[str], limit: int) -> list[Entry]:
        """Claims up to ``limit`` ready entries for a member."""
        self._promote()
        taken = self.lines.take(queues - self.paused if self.paused else queues, limit)
        claims = member.claims
        number = self._claim_number
        for entry in taken:
            number += 1
            entry.claim = claim = b"%d" % number
            entry.place = CLAIMED
            claims[claim] = entry
        self._claim_number = number
        return taken

    def settle(self, member: Member, settlements: Iterable[Settlement], records: list[Record] | None) -> list[bytes]:
        """Carries out settlements and returns the stale claims. The records of the others are added to ``records``."""
        stale: list[bytes] = []
        returned: list[Entry] = []
        claims = member.claims
        for settlement in settlements:
            entry = claims.pop(settlement.claim, None)
            if entry is None:
                stale.append(settlement.claim)
                continue
            if isinstance(settlement, Ack):
                del self.alive[entry.id]
            else:
                self._end(entry, settlement, returned)
            if records is not None and settlement.record is not None:
                records.append(settlement.record)
        self.give_back(returned)
        return stale

    def give_back(self, entries: list[Entry]) -> None:
        """Puts claimed entries back at the front of their queues."""
        if not entries:
            return
        for entry in entries:
            entry.started = False
        self.lines.put_back(entries)
        self.changed.notify_all()

    def bury(self, entry: Entry, reason: str) -> DeadLetter:
        """Makes a claimed entry a dead letter."""
        del self.alive[entry.id]
        self.dead.pop(entry.id, None)
        self.dead[entry.id] = dead = DeadEntry(entry, reason, time.time())
        return dead.letter

    def take_over(self, dead: Member, max_crashes: int, max_deliveries: int) -> tuple[int, list[DeadLetter]]:
        """Releases the claims of a dead member, counted; returns how many, and the dead letters."""
        released: list[Entry] = []
        letters: list[DeadLetter] = []
        for entry in dead.claims.values():
            entry.crashes += entry.started
            if entry.crashes >= max_crashes:
                letters.append(self.bury(entry, f"crash limit: its process died in {entry.crashes} runs"))
            elif entry.deliveries >= max_deliveries:
                letters.append(
                    self.bury(entry, f"delivery limit: its worker was lost in {entry.deliveries} deliveries")
                )
            else:
                entry.deliveries += 1
                released.append(entry)
        del self.members[dead.worker.id]
        self.give_back(released)
        return len(released), letters

    def revoke(self, ids: Sequence[str], until: float) -> list[Found]:
        """Remembers revocations; takes out what is ready or delayed, and returns where it was."""
        now = time.time()
        self.revoked = {id: end for id, end in self.revoked.items() if end > now}
        self.revoked.update((id, max(until, self.revoked.get(id, until))) for id in ids)
        alive = (self.alive.get(id) for id in dict.fromkeys(ids))
        entries = [entry for entry in alive if entry is not None and entry.place != CLAIMED]
        found = [entry.found() for entry in entries]
        for entry in entries:
            self._withdraw(entry)
        return found

    def deliveries(self, entries: Iterable[Entry]) -> list[Delivery]:
        """Returns claimed entries as their worker sees them."""
        if not self.revoked:
            return [entry.delivery(False) for entry in entries]
        now = time.time()
        return [entry.delivery(self.revoked.get(entry.id, 0.0) > now) for entry in entries]

    def purge(self, queue: str) -> int:
        """Deletes the ready and delayed entries of a queue; returns how many."""
        ready = self.lines.clear(queue)
        for entry in ready:
            del self.alive[entry.id]
        delayed = [entry for entry in self.delayed() if entry.queue == queue]
        for entry in delayed:
            self._withdraw(entry)
        return len(ready) + len(delayed)

    def replay(self, ids: Sequence[str]) -> int:
        """Puts dead letters back into their queues, unless a message of that id is alive; returns how many."""
        found = [id for id in dict.fromkeys(ids) if id in self.dead and id not in self.alive]
        for id in found:
            self.add(self.dead.pop(id).revived(), time.time())
        self.changed.notify_all()
        return len(found)

    def delayed(self) -> list[Entry]:
        """Returns the delayed entries, soonest first."""
        return [entry for _, _, entry in sorted(self._delayed) if entry.place == DELAYED]

    def counts(self) -> dict[str, Counter[str]]:
        """Returns the messages by place and queue."""
        return {
            "ready": self.lines.counts(),
            "delayed": Counter(entry.queue for entry in self.delayed()),
            "claimed": Counter(e.queue for member in self.members.values() for e in member.claims.values()),
            "dead": Counter(dead.entry.queue for dead in self.dead.values()),
        }

    def _is_new(self, batch: Batch, now: float) -> bool:
        while self._producers and next(iter(self._producers.values()))[1] < now - PRODUCER_MEMORY:
            self._producers.popitem(last=False)
        if self._producers.get(batch.producer, (-1, now))[0] >= batch.number:
            return False
        self._producers[batch.producer] = (batch.number, now)
        self._producers.move_to_end(batch.producer)
        return True

    def _promote(self) -> None:
        if not self._delayed or self._delayed[0][0] > (now := time.time()):
            return
        while self._delayed and self._delayed[0][0] <= now:
            entry = heapq.heappop(self._delayed)[2]
            if entry.place == DELAYED:
                self._order += 1
                entry.order = self._order
                self.lines.append(entry)
            else:
                self._gone -= 1

    def _withdraw(self, entry: Entry) -> None:
        del self.alive[entry.id]
        if entry.place != DELAYED:
            self.lines.withdraw(entry)
            return
        entry.place = GONE
        self._gone += 1
        if self._gone > _GONE_KEPT and self._gone > len(self._delayed) / 2:
            self._delayed = [item for item in self._delayed if item[2].place == DELAYED]
            heapq.heapify(self._delayed)
            self._gone = 0

    def _end(self, entry: Entry, settlement: Again | Release | Dead, returned: list[Entry]) -> None:
        if isinstance(settlement, Again):
            del self.alive[entry.id]
            self.publish((settlement.envelope,), None)
        elif isinstance(settlement, Dead):
            entry.crashes += settlement.crashed
            self.bury(entry, settlement.reason)
        else:
            self._release(entry, settlement, returned)

    def _release(self, entry: Entry, release: Release, returned: list[Entry]) -> None:
        entry.deliveries += release.counts != "nothing"
        entry.crashes += release.counts == "crash"
        if release.at is None:
            returned.append(entry)
            return
        entry.started = False
        entry.due = release.at
        self.add(entry, time.time())
        self.changed.notify_all()


_brokers: dict[str, Broker] = {}
_opening = threading.Lock()


def broker_of(url: str) -> Broker:
    """Returns the broker that a URL stands for in this process."""
    with _opening:
        return _brokers.setdefault(url, Broker())


def _forget_all() -> None:
    global _opening
    _brokers.clear()
    _opening = threading.Lock()


# A copy of the parent's messages in a child would be run twice.
os.register_at_fork(after_in_child=_forget_all)
