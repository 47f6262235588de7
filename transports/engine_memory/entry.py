"""A message as the broker holds it."""

from __future__ import annotations

from engine.contract import DeadLetter, Delivery, Envelope, Found, Scheduled

READY = "ready"
DELAYED = "delayed"
CLAIMED = "claimed"
GONE = "gone"
"""Taken out (revoked, purged): a line or heap that still holds the entry passes over it."""


class Entry:
    """One message that is alive. ``order`` is its place in line: smaller is nearer to the front."""

    __slots__ = (
        "body",
        "claim",
        "crashes",
        "deliveries",
        "due",
        "id",
        "order",
        "place",
        "priority",
        "queue",
        "started",
    )

    def __init__(self, envelope: Envelope) -> None:
        self.id = envelope.id
        self.body = envelope.body
        self.queue = envelope.queue
        self.priority = min(max(envelope.priority, 0), 9)
        self.due = envelope.due
        self.place = READY
        self.order = 0
        self.claim = b""
        self.deliveries = 1
        self.crashes = 0
        self.started = False

    def __lt__(self, other: Entry) -> bool:
        return self.order < other.order

    def delivery(self, revoked: bool) -> Delivery:
        """Returns the claimed entry as its worker sees it."""
        return Delivery(
            self.id, self.queue, self.body, self.claim, self.deliveries, self.crashes, self.priority, revoked
        )

    def found(self) -> Found:
        """Returns where it is."""
        due = self.due if self.place == DELAYED else None
        return Found(self.id, self.queue, self.place, due, self.body)  # type: ignore[arg-type]  # never GONE here

    def scheduled(self) -> Scheduled:
        """Returns the delayed entry for a listing."""
        return Scheduled(self.id, self.queue, self.due or 0.0, self.body)


class DeadEntry:
    """A message that has become a dead letter."""

    __slots__ = ("entry", "letter")

    def __init__(self, entry: Entry, reason: str, died: float) -> None:
        self.entry = entry
        self.letter = DeadLetter(entry.id, entry.queue, reason, died, entry.deliveries, entry.crashes, entry.body)

    def revived(self) -> Entry:
        """Returns a new entry for its replay: crashes 0, deliveries going on."""
        entry = Entry(Envelope(self.entry.id, self.entry.body, self.entry.queue, self.entry.priority))
        entry.deliveries = self.entry.deliveries + 1
        return entry
