"""``spool:///folder``: a broker made of files in a folder, for the processes of one machine.

A message is two files: a *body*, which never changes, and a *ticket*, an empty file whose name says everything else. A
ticket is in one folder at a time (``waiting``, ``claims/<worker>`` or ``dead``), and a message moves when its ticket is
renamed. A rename happens or does not: a process that is killed between any two lines leaves every message in one place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote, unquote

from engine.contract import (
    Ack,
    Again,
    Batch,
    Capabilities,
    Consumer,
    Dead,
    DeadLetter,
    Delivery,
    Envelope,
    Found,
    QueueCounts,
    Reconciled,
    Release,
    Scheduled,
    Settlement,
    TakenOver,
    Transport,
    Worker,
    hookimpl,
)
from engine.contract.liveness import DeathWatch
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError, TransportError

POLL = 0.02  # seconds between two looks for messages
LONGEST_QUEUE = 150  # characters of a quoted name that fit into the name of a file, beside the rest
LISTED_BODY = 64 * 1024
COMMANDS_KEPT = 3600 * 10**9  # nanoseconds


class Ticket(NamedTuple):
    """A message without its body: what the name of its file says."""

    priority: int
    order: int
    """Its place in line, in nanoseconds since the epoch; before that time it is delayed. Of a dead letter: its end."""
    deliveries: int
    crashes: int
    queue: str
    digest: str
    """Of the id, which may hold any character."""
    body: str
    """Name of its file in ``bodies``."""
    claim: str = ""

    @property
    def name(self) -> str:
        """Returns the name of its file."""
        return ",".join(quote(str(field), safe="") for field in self)

    @classmethod
    def parse(cls, name: str) -> Ticket:
        """Reads the name of a file."""
        priority, order, deliveries, crashes, *texts = name.split(",")
        return cls(int(priority), int(order), int(deliveries), int(crashes), *map(unquote, texts))


class Folder:
    """The files of one broker. With the lock held, every method sees them at rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting, self.claims, self.dead = path / "waiting", path / "claims", path / "dead"
        self.bodies, self.drafts, self.workers = path / "bodies", path / "drafts", path / "workers"
        self.paused, self.revoked, self.commands = path / "paused", path / "revoked", path / "commands"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lets one thread of one process in at a time. The lock of a process that dies is free."""
        try:
            with open(self._lock_file(), "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise (BrokerFull if is_full else BrokerUnavailable)(f"{self.path}: {error.strerror or error}") from error

    def _lock_file(self) -> Path:
        file = self.path / "lock"
        if not file.exists():
            for part in vars(self).values():
                part.mkdir(parents=True, exist_ok=True)
        return file

    def write(self, file: Path, data: bytes) -> None:
        """Writes a file that is there whole, or not at all."""
        draft = self.drafts / token()
        draft.write_bytes(data)
        draft.replace(file)

    def tickets(self, place: Path) -> list[Ticket]:
        """Returns the tickets in one place."""
        with contextlib.suppress(FileNotFoundError):  # a worker that has claimed nothing yet
            return [Ticket.parse(name) for name in os.listdir(place)]
        return []

    def alive(self) -> list[Ticket]:
        """Returns the tickets of all messages that are waiting or claimed."""
        claimed = (ticket for worker in os.listdir(self.claims) for ticket in self.tickets(self.claims / worker))
        return [*self.tickets(self.waiting), *claimed]

    def add(self, envelope: Envelope) -> Ticket:
        """Writes the body of a new message, and returns its ticket: the message exists when that is in its place."""
        if len(quote(envelope.queue, safe="")) > LONGEST_QUEUE:
            raise TransportError(f"the queue's name {envelope.queue!r} is too long for a file: choose a shorter one")
        body = token()
        (self.bodies / body).write_bytes(json.dumps(envelope.id).encode() + b"\n" + envelope.body)
        return Ticket(envelope.priority, place_in_line(envelope.due), 1, 0, envelope.queue, digest(envelope.id), body)

    def read(self, ticket: Ticket) -> tuple[str, bytes]:
        """Returns id and body of a message."""
        id, _, body = (self.bodies / ticket.body).read_bytes().partition(b"\n")
        return json.loads(id), body

    def move(self, ticket: Ticket, source: Path, target: Path, **changes: Any) -> Ticket:
        """Moves a message and changes what its ticket says, in one step. Returns the new ticket."""
        moved = ticket._replace(**changes)
        os.rename(source / ticket.name, target / moved.name)
        return moved

    def remove(self, ticket: Ticket, place: Path) -> None:
        """Deletes a message: it is gone with its ticket, the rest is tidying."""
        (place / ticket.name).unlink()
        (self.bodies / ticket.body).unlink()
        (self.bodies / f"{ticket.body}.reason").unlink(missing_ok=True)

    def release(self, ticket: Ticket, source: Path, counts: str = "nothing", at: float | None = None) -> None:
        """Puts a claimed message back: where it stood in line, or to the end at the time ``at``."""
        order = ticket.order if at is None else place_in_line(at)
        deliveries, crashes = ticket.deliveries + (counts != "nothing"), ticket.crashes + (counts == "crash")
        self.move(ticket, source, self.waiting, order=order, deliveries=deliveries, crashes=crashes, claim="")

    def bury(self, ticket: Ticket, source: Path, reason: str, **changes: Any) -> DeadLetter:
        """Makes a claimed message a dead letter; an earlier one of the same id gives way to it."""
        former = [letter for letter in self.tickets(self.dead) if letter.digest == ticket.digest]
        (self.bodies / f"{ticket.body}.reason").write_bytes(reason.encode())
        buried = self.move(ticket, source, self.dead, order=time.time_ns(), claim="", **changes)
        for letter in former:
            self.remove(letter, self.dead)
        return self.letter(buried)

    def letter(self, ticket: Ticket, length: int | None = None) -> DeadLetter:
        """Returns a dead letter, its body cut to ``length``."""
        id, body = self.read(ticket)
        reason = (self.bodies / f"{ticket.body}.reason").read_bytes().decode()
        _, died, deliveries, crashes, queue, *_ = ticket
        return DeadLetter(id, queue, reason, died / 1e9, deliveries, crashes, body[:length])

    def is_revoked(self, ticket: Ticket) -> bool:
        """Was the task revoked, and is that still to be remembered?"""
        file = self.revoked / ticket.digest
        return file.exists() and float(file.read_text()) > time.time()


def token() -> str:
    """Returns a name that nothing else has."""
    return os.urandom(8).hex()


def digest(id: str) -> str:
    """Returns an id as it can stand in the name of a file."""
    return hashlib.sha256(id.encode()).hexdigest()[:32]


def place_in_line(due: float | None) -> int:
    """Returns the order of a message that comes now, or is due later."""
    return max(time.time_ns(), int((due or 0) * 1e9))


class SpoolTransport(Transport):
    """The broker as its clients see it. What a method is for stands in `engine.contract.Transport`."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        delays=True,
        prioritises=True,
        settles_retry_atomically=True,
        keeps_claims=True,
        finds=True,
        lists_scheduled=True,
        revokes=True,
        broadcasts=True,
        durable=True,
    )

    def __init__(self, url: str, *, options: Mapping[str, Any]) -> None:
        super().__init__(url, options=options)
        path = url.partition("://")[2]
        if not path:
            raise ConfigError(f'[broker] url = "{url}": name a folder, as in "spool:///var/lib/engine"')
        self._folder = Folder(Path(path).absolute())

    def publish(self, envelopes: Sequence[Envelope], *, batch: Batch | None = None) -> None:
        folder = self._folder
        with folder.locked():
            alive = {ticket.digest for ticket in folder.alive()}
            new: dict[str, Envelope] = {}
            for envelope in envelopes:
                new.setdefault(digest(envelope.id), envelope)
            tickets = [folder.add(envelope) for key, envelope in new.items() if key not in alive]
            for ticket in tickets:
                (folder.waiting / ticket.name).touch()

    def consume(self, queues: Sequence[str], worker: Worker) -> Consumer:
        return SpoolConsumer(self._folder, queues, worker)

    def counts(self, queues: Sequence[str] | None = None) -> Mapping[str, QueueCounts]:
        folder, now = self._folder, time.time_ns()
        with folder.locked():
            found = Counter((ticket.queue, _place(ticket, now)) for ticket in folder.alive())
            found.update((ticket.queue, "dead") for ticket in folder.tickets(folder.dead))
            paused = {unquote(name) for name in os.listdir(folder.paused)}
        names = sorted({queue for queue, _ in found} | paused) if queues is None else queues
        places = ("ready", "delayed", "claimed", "dead")
        tallies = {name: {place: found[name, place] for place in places} for name in names}
        return {name: QueueCounts(**tally, paused=name in paused) for name, tally in tallies.items()}

    def find(self, id: str) -> Found | None:
        folder, now, wanted = self._folder, time.time_ns(), digest(id)
        with folder.locked():
            places = [(ticket, _place(ticket, now)) for ticket in folder.alive()]
            places += [(ticket, "dead") for ticket in folder.tickets(folder.dead)]
            return next((self._found(ticket, place) for ticket, place in places if ticket.digest == wanted), None)

    def scheduled(self, limit: int = 100, queue: str | None = None) -> Sequence[Scheduled]:
        folder, now = self._folder, time.time_ns()
        with folder.locked():
            delayed = (ticket for ticket in _of(queue, folder.tickets(folder.waiting)) if ticket.order > now)
            first = sorted(delayed, key=lambda ticket: ticket.order)[:limit]
            found = [self._found(ticket, "delayed") for ticket in first]
        return [Scheduled(one.id, one.queue, one.due or 0.0, one.body) for one in found]

    def revoke(self, ids: Sequence[str], until: float) -> Sequence[Found]:
        folder, now, wanted = self._folder, time.time_ns(), {digest(id) for id in ids}
        with folder.locked():
            for key in wanted:
                folder.write(folder.revoked / key, str(until).encode())
            tickets = [ticket for ticket in folder.tickets(folder.waiting) if ticket.digest in wanted]
            found = [self._found(ticket, _place(ticket, now)) for ticket in tickets]
            self._remove(tickets, folder.waiting)
            return found

    def dead(self, limit: int = 100, queue: str | None = None) -> Sequence[DeadLetter]:
        folder = self._folder
        with folder.locked():
            latest = sorted(_of(queue, folder.tickets(folder.dead)), key=lambda ticket: -ticket.order)[:limit]
            return [folder.letter(ticket, LISTED_BODY) for ticket in latest]

    def dead_letter(self, id: str) -> DeadLetter | None:
        with self._folder.locked():
            return next((self._folder.letter(ticket) for ticket in self._letters([id])), None)

    def replay(self, ids: Sequence[str]) -> int:
        folder = self._folder
        with folder.locked():
            alive = {ticket.digest for ticket in folder.alive()}
            tickets = [ticket for ticket in self._letters(ids) if ticket.digest not in alive]
            for ticket in tickets:
                order, deliveries = place_in_line(None), ticket.deliveries + 1
                folder.move(ticket, folder.dead, folder.waiting, order=order, deliveries=deliveries, crashes=0)
            return len(tickets)

    def drop(self, ids: Sequence[str]) -> int:
        with self._folder.locked():
            return self._remove(self._letters(ids), self._folder.dead)

    def purge(self, queue: str) -> int:
        waiting = self._folder.waiting
        with self._folder.locked():
            return self._remove(_of(queue, self._folder.tickets(waiting)), waiting)

    def pause(self, queue: str, paused: bool) -> None:
        file = self._folder.paused / quote(queue, safe="")
        with self._folder.locked():
            file.touch() if paused else file.unlink(missing_ok=True)

    def broadcast(self, command: bytes) -> None:
        folder, now = self._folder, time.time_ns()
        with folder.locked():
            numbers = [int(name) for name in os.listdir(folder.commands)]
            for number in numbers:
                if number < now - COMMANDS_KEPT:
                    (folder.commands / str(number)).unlink()
            folder.write(folder.commands / str(max([now, *(number + 1 for number in numbers)])), command)

    def close(self) -> None:
        """Does nothing: no file stays open."""

    def _remove(self, tickets: Sequence[Ticket], place: Path) -> int:
        for ticket in tickets:
            self._folder.remove(ticket, place)
        return len(tickets)

    def _letters(self, ids: Iterable[str]) -> list[Ticket]:
        wanted = {digest(id) for id in ids}
        return [ticket for ticket in self._folder.tickets(self._folder.dead) if ticket.digest in wanted]

    def _found(self, ticket: Ticket, place: Any) -> Found:
        id, body = self._folder.read(ticket)
        return Found(id, ticket.queue, place, ticket.order / 1e9 if place == "delayed" else None, body)


def _place(ticket: Ticket, now: int) -> str:
    """Where a message that is alive is."""
    if ticket.claim:
        return "claimed"
    return "ready" if ticket.order <= now else "delayed"


def _of(queue: str | None, tickets: Iterable[Ticket]) -> list[Ticket]:
    return [ticket for ticket in tickets if queue is None or ticket.queue == queue]


class SpoolConsumer(Consumer):
    """A worker's end. Two threads call it, `fetch` and `settle` at once: what both use is in files, under the lock."""

    def __init__(self, folder: Folder, queues: Sequence[str], worker: Worker) -> None:
        self._folder = folder
        self._worker = worker
        self._turns = list(queues)
        self._mine = folder.claims / quote(worker.id, safe="")
        self._file = folder.workers / quote(worker.id, safe="")
        self._watch = DeathWatch(worker)
        self._woken = threading.Event()
        self._beat = 0
        self._heard: int | None = None

    def fetch(self, limit: int, timeout: float) -> Sequence[Delivery]:
        deadline = time.monotonic() + timeout
        while True:
            with self._folder.locked():
                self._join()
                taken = [self._claim(ticket) for ticket in self._next()[:limit]]
                is_called = bool(self._unheard())
            left = deadline - time.monotonic()
            if taken or is_called or left <= 0 or self._woken.wait(min(left, POLL)):
                self._woken.clear()
                return taken

    def wake(self) -> None:
        self._woken.set()

    def _next(self) -> list[Ticket]:
        """What is ready: priority first across all queues, then the queues in turn."""
        now, paused = time.time_ns(), {unquote(name) for name in os.listdir(self._folder.paused)}
        turns = {queue: turn for turn, queue in enumerate(self._turns) if queue not in paused}
        waiting = self._folder.tickets(self._folder.waiting)
        ready = sorted((t for t in waiting if t.order <= now and t.queue in turns), key=lambda ticket: ticket.order)
        before: Counter[tuple[int, str]] = Counter()
        places = {}
        for ticket in ready:
            line = (ticket.priority, ticket.queue)
            places[ticket] = (-ticket.priority, before[line], turns[ticket.queue])
            before[line] += 1
        return sorted(ready, key=places.__getitem__)

    def _claim(self, ticket: Ticket) -> Delivery:
        self._turns.remove(ticket.queue)
        self._turns.append(ticket.queue)
        return self._delivery(self._folder.move(ticket, self._folder.waiting, self._mine, claim=token()))

    def _delivery(self, ticket: Ticket) -> Delivery:
        id, body = self._folder.read(ticket)
        is_revoked = self._folder.is_revoked(ticket)
        priority, _, deliveries, crashes, queue, *_, claim = ticket
        return Delivery(id, queue, body, claim.encode(), deliveries, crashes, priority, is_revoked)

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[bytes]:
        stale = []
        with self._folder.locked():
            held = self._held()
            for settlement in settlements:
                ticket = held.pop(settlement.claim, None)
                if ticket is None:
                    stale.append(settlement.claim)
                else:
                    self._end(ticket, settlement)
        return stale

    def _end(self, ticket: Ticket, settlement: Settlement) -> None:
        folder = self._folder
        match settlement:
            case Ack():
                folder.remove(ticket, self._mine)
            case Again(envelope=envelope):
                successor = folder.add(envelope)
                os.rename(self._mine / ticket.name, folder.waiting / successor.name)
                (folder.bodies / ticket.body).unlink()
            case Release(at=at, counts=counts):
                folder.release(ticket, self._mine, counts, at)
            case Dead(reason=reason, crashed=crashed):
                folder.bury(ticket, self._mine, reason, crashes=ticket.crashes + crashed)

    def _held(self) -> dict[bytes, Ticket]:
        return {ticket.claim.encode(): ticket for ticket in self._folder.tickets(self._mine)}

    def renew(self, started: Collection[bytes]) -> None:
        with self._folder.locked():
            self._join()
            self._beat += 1
            self._sign_in(started)

    def reconcile(self, held: Collection[bytes]) -> Reconciled:
        with self._folder.locked():
            self._join()
            claimed = self._held()
            dropped = [ticket for claim, ticket in claimed.items() if claim not in held]
            for ticket in dropped:
                self._folder.release(ticket, self._mine)
            lost = [claim for claim in held if claim not in claimed]
            return Reconciled(lost, [self._delivery(claimed[c]) for c in held if c in claimed], len(dropped))

    def takeover(self, max_crashes: int, max_deliveries: int) -> Sequence[TakenOver]:
        with self._folder.locked():
            signed = [json.loads(file.read_bytes()) for file in self._folder.workers.iterdir()]
        started = {entry["worker"]["id"]: entry["started"] for entry in signed}
        # Outside of the lock: it may take a tenth of a second to be sure.
        dead = self._watch.dead([(Worker(**entry["worker"]), entry["beat"]) for entry in signed])
        with self._folder.locked():
            left = [id for id in dead if (self._folder.workers / quote(id, safe="")).exists()]
            return [self._take_over(id, started[id], max_crashes, max_deliveries) for id in left]

    def _take_over(self, id: str, started: Sequence[str], max_crashes: int, max_deliveries: int) -> TakenOver:
        folder, released, letters = self._folder, 0, []
        theirs = folder.claims / quote(id, safe="")
        for ticket in folder.tickets(theirs):
            crashes = ticket.crashes + (ticket.claim in started)
            if crashes >= max_crashes:
                reason = f"crash limit: its process died in {crashes} runs"
                letters.append(folder.bury(ticket, theirs, reason, crashes=crashes))
            elif ticket.deliveries >= max_deliveries:
                reason = f"delivery limit: its worker was lost in {ticket.deliveries} deliveries"
                letters.append(folder.bury(ticket, theirs, reason))
            else:
                folder.release(ticket, theirs, "crash" if ticket.claim in started else "delivery")
                released += 1
        self._sign_out(id)
        return TakenOver(id, released, letters)

    def close(self) -> None:
        with self._folder.locked():
            for ticket in self._folder.tickets(self._mine):
                self._folder.release(ticket, self._mine)
            self._sign_out(self._worker.id)

    def _join(self) -> None:
        """Signs in at the start, and again when somebody took this worker for dead: who claims must be known."""
        if not self._file.exists():
            self._sign_in(())
            self._mine.mkdir(exist_ok=True)
        if self._heard is None:
            self._heard = max(map(int, os.listdir(self._folder.commands)), default=0)

    def _sign_in(self, started: Collection[bytes]) -> None:
        worker = {name: getattr(self._worker, name) for name in Worker.__struct_fields__}
        entry = {"worker": worker, "beat": self._beat, "started": [claim.decode() for claim in started]}
        self._folder.write(self._file, json.dumps(entry).encode())

    def _sign_out(self, id: str) -> None:
        name = quote(id, safe="")
        with contextlib.suppress(FileNotFoundError):  # somebody else has taken over, or it never came
            (self._folder.claims / name).rmdir()
        (self._folder.workers / name).unlink(missing_ok=True)

    def commands(self) -> Sequence[bytes]:
        with self._folder.locked():
            unheard = self._unheard()
            self._heard = max([self._heard or 0, *unheard])
            return [(self._folder.commands / str(number)).read_bytes() for number in unheard]

    def _unheard(self) -> list[int]:
        return sorted(number for number in map(int, os.listdir(self._folder.commands)) if number > (self._heard or 0))


@hookimpl
def engine_transport(scheme: str) -> type[Transport] | None:
    """Answers for the scheme "spool"."""
    return SpoolTransport if scheme == "spool" else None
