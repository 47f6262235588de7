"""Runs in the dispatcher: the main lane's side of the publish lane. It hands work over, and knows what is still to be
sent; `engine.runtime.dispatcher.publish` is the lane that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from engine.app import wire
from engine.contract.message import Batch, Envelope, Message
from engine.contract.results import Record
from engine.contract.transport import Delivery
from engine.runtime.dispatcher.lanes import Inbox


class Caller(Protocol):
    """Who asked: a child or a client."""

    @property
    def producer(self) -> str:
        """Who publishes, when the call itself does not say."""

    @property
    def gone(self) -> bool:
        """Is there nobody to answer any more? Any lane."""

    @property
    def again(self) -> bool:
        """May the call have been made before, by a dispatcher that died?"""

    def answer(self, reply: wire.Reply) -> None:
        """Sends the answer. Main lane."""


class Publish:
    """Messages that must be sent, however long it takes."""

    __slots__ = ("batch", "envelopes", "then")

    def __init__(self, envelopes: Sequence[Envelope], batch: Batch, then: Callable[[], None]) -> None:
        self.envelopes = envelopes
        self.batch = batch
        self.then = then
        """Called in the publish lane when they are sent, or refused for good."""


class Ask:
    """A call of a child or a client."""

    __slots__ = ("caller", "request")

    def __init__(self, caller: Caller, request: wire.Request) -> None:
        self.caller = caller
        self.request = request


Looked: TypeAlias = Callable[[Mapping[str, Record] | None], None]
"""Takes the records that were found; None: they cannot be read now."""


class LookUp:
    """Records that the dispatcher itself wants to see; ``then`` is called with them in the main lane."""

    __slots__ = ("ids", "then")

    def __init__(self, ids: Sequence[str], then: Looked) -> None:
        self.ids = ids
        self.then = then


class Revoke:
    """Messages that were revoked, and for which the broker is to look once more."""

    __slots__ = ("ids",)

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids


class Do:
    """Anything else of the dispatcher's own that is to be done in the publish lane."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call


Work: TypeAlias = Publish | Ask | LookUp | Revoke | Do


class Publisher:
    """Hands work to the publish lane. Main lane, but for what says otherwise."""

    def __init__(self, inbox: Inbox[Work], worker: str, start: int) -> None:
        """``worker`` is this incarnation's id, ``start`` counts its dispatchers: together they are the producer of what
        this one publishes."""
        self.inbox = inbox
        self._worker = worker
        self._producer = f"{worker}.{start}"
        self._number = 0
        self._asked = self._sent = 0

    @property
    def idle(self) -> bool:
        """Has everything that must be sent been sent?"""
        return self._asked == self._sent

    def send(self, envelopes: Sequence[Envelope], then: Callable[[], None], batch: Batch | None = None) -> None:
        """Publishes, however long it takes; ``then`` is called in the publish lane when it is done, or refused for
        good. ``batch``: the number by which the broker knows a repetition; None: this publish has none before it."""
        if batch is None:
            self._number += 1
            batch = Batch(self._producer, self._number)
        self._asked += 1
        self.inbox.put([Publish(envelopes, batch, then)])

    def send_back(self, message: Message, delivery: Delivery, then: Callable[[], None] = lambda: None) -> None:
        """Publishes an acknowledged message again that no child has started; ``then`` as in `send`."""
        envelope = Envelope(
            message.id, delivery.body, delivery.queue, delivery.priority, None, message.expires, replayed=True
        )
        self.send([envelope], then)

    def batch_of_slot(self, slot: int, sequence: int) -> Batch:
        """Returns the batch of what a slot's run sends at its end: the runs of a slot have growing sequences, so the
        next dispatcher gives the same run the same number."""
        return Batch(f"{self._worker}.slot.{slot}", sequence)

    def sent(self) -> None:
        """Notes that one `Publish` is done. The publish lane."""
        self._sent += 1

    def ask(self, asks: Sequence[Ask]) -> None:
        """Passes on what children or clients ask."""
        self.inbox.put(list(asks))

    def look_up(self, ids: Sequence[str], then: Looked) -> None:
        """Gets records, and makes the call with them in the main lane."""
        self.inbox.put([LookUp(ids, then)])

    def revoke(self, ids: Sequence[str]) -> None:
        """Has the broker look once more for messages that were revoked. Any lane."""
        self.inbox.put([Revoke(list(ids))])

    def do(self, call: Callable[[], None]) -> None:
        """Has something done in the publish lane, whose connections the transport and the result backend are. Any
        lane."""
        self.inbox.put([Do(call)])


def repeated(envelopes: Sequence[Envelope]) -> list[Envelope]:
    """Returns messages that may have been published before, marked so."""
    return [msgspec.structs.replace(envelope, replayed=True) for envelope in envelopes]
