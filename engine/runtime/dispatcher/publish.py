"""Runs in the dispatcher: the publish lane, which makes all calls of the transport and reads of the result backend.

What tasks and clients ask for goes through here, so that a slow result backend does not hold up fetching or settling.
A call that waits for results is an entry in a table: this lane never waits for one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from engine.app import ends, relay, wire
from engine.app.revocation import KEPT
from engine.contract.message import Batch, Envelope
from engine.contract.results import Record
from engine.contract.transport import CannotTell, Found
from engine.errors import BrokerFull, BrokerUnavailable, EngineError, TransportError
from engine.runtime.board import Board
from engine.runtime.dispatcher.lanes import Backoff, Lane, Mailbox
from engine.runtime.dispatcher.link import Link
from engine.runtime.dispatcher.publisher import Ask, LookUp, Publish, Publisher, Revoke, repeated
from engine.runtime.dispatcher.waits import Waits

log = logging.getLogger("engine.dispatcher")

LONGEST_WAIT = 2.0
"""Seconds that this lane waits for work at most."""

_encode = msgspec.msgpack.Encoder().encode
_args = {method: msgspec.msgpack.Decoder(kind) for method, kind in relay.ARGS.items()}


class PublishLane(Lane):
    """The thread that publishes and answers."""

    def __init__(
        self,
        board: Board,
        link: Link,
        mailbox: Mailbox,
        publisher: Publisher,
        store: Callable[[Sequence[Record], Callable[[], None]], None],
    ) -> None:
        """``store`` is called in the main lane: it has records stored, by the settle lane, and then makes the call."""
        super().__init__("publish", board)
        self._publisher = publisher
        self._inbox = publisher.inbox
        self._store = store
        self._link = link
        self._mailbox = mailbox
        self._sending: deque[Publish] = deque()
        self._backoff = Backoff()
        self._retry_at = 0.0
        self._waits: Waits[Ask] = Waits(
            self._get, lambda ask, found: self._answer(ask, _encode(found)), lambda ask: ask.caller.gone
        )
        self._methods = _methods(link)

    def stored(self, records: Sequence[Record]) -> None:
        """Hears of records that were stored here: somebody may wait for one of them. Any lane."""
        if ids := self._waits.wanted(records):
            self._publisher.do(lambda: self._waits.look(ids))

    def stop(self) -> None:
        """As `Lane.stop`; wakes the lane."""
        super().stop()
        self._inbox.put([])

    def round(self) -> None:
        """Does what has accumulated."""
        until = self._waits.tick()
        if self._sending:
            until = max(0.0, min(until, self._retry_at - time.monotonic()))
        elif not self._waits:
            until = LONGEST_WAIT
            self.stamp(working=False)
        work = self._inbox.take(until)
        self.stamp(working=True)
        for one in work:
            self.stamp(working=True)  # at each: many slow calls are not one lane that stands still
            if isinstance(one, Publish):
                self._sending.append(one)
            elif isinstance(one, Ask):
                self._send_all()
                self._serve(one)
            elif isinstance(one, LookUp):
                self._look_up(one)
            elif isinstance(one, Revoke):
                self._revoke_again(one.ids)
            else:
                one.call()
        self._send_all()

    def _send_all(self) -> None:
        """Sends what must be sent, in order; stops at the first that cannot be now."""
        while self._sending and time.monotonic() >= self._retry_at:
            self.stamp(working=True)
            one = self._sending[0]
            try:
                self._link.transport.publish(one.envelopes, batch=one.batch)
            except (BrokerUnavailable, BrokerFull) as error:
                self._fails(error)
                return
            except Exception as error:  # noqa: BLE001 - a plugin refuses these messages: trying again does not help
                ids = ", ".join(envelope.id for envelope in one.envelopes)
                log.error("cannot publish %s, which is lost: %s: %s", ids, type(error).__name__, error)
            self._works()
            self._sending.popleft()
            one.then()
            self._publisher.sent()

    def _fails(self, error: Exception) -> None:
        self._link.broker_outage.failed(self.lane, error)
        self._retry_at = time.monotonic() + self._backoff.next()

    def _works(self) -> None:
        self._link.broker_outage.worked(self.lane)
        self._backoff.reset()
        self._retry_at = 0.0

    def _serve(self, ask: Ask) -> None:
        request = ask.request
        if ask.caller.gone:
            return
        try:
            value = self._call(ask)
        except EngineError as error:
            self._answer(ask, b"", type(error).__name__, str(error))
        except msgspec.MsgspecError as error:
            self._answer(ask, b"", "TransportError", f"{request.method}: the arguments cannot be read: {error}")
        except Exception as error:  # a plugin failed at this call: the one who asked hears of it
            log.error("%s failed: %s: %s", request.method, type(error).__name__, error, exc_info=True)
            self._answer(ask, b"", "TransportError", f"{request.method}: {type(error).__name__}: {error}")
        else:
            if value is not None:
                self._answer(ask, value)

    def _call(self, ask: Ask) -> bytes | None:
        """Returns the value, or None if the answer comes later."""
        request = ask.request
        decoder = _args.get(request.method)
        if decoder is None:
            raise TransportError(f"there is no method {request.method!r}")
        args = decoder.decode(request.args)
        if request.method == "wait":
            self._begin_wait(ask, *args)
            return None
        if request.method == "revoke":
            self._revoke(ask, *args)
            return None
        if request.method == "publish":
            self._publish(ask, *args)
            return _encode(None)
        return _encode(self._methods[request.method](*args))

    def _publish(self, ask: Ask, envelopes: list[Envelope], batch: Batch | None) -> None:
        if self._sending:
            # What must be sent is older; and while the broker is away, nobody waits here for its timeout.
            raise BrokerUnavailable("the broker cannot be reached now")
        batch = batch or Batch(ask.caller.producer, ask.request.number)
        self._link.transport.publish(repeated(envelopes) if ask.caller.again else envelopes, batch=batch)

    def _revoke(self, ask: Ask, ids: list[str], until: float) -> None:
        """Revokes; answers when it is on record that what was found will not run."""
        found = list(self._link.transport.revoke(ids, until))
        value = _encode(found)
        self._record_removed(found, lambda: self._answer(ask, value))

    def _revoke_again(self, ids: list[str]) -> None:
        try:
            found = self._link.transport.revoke(ids, time.time() + KEPT)
        except TransportError as error:
            log.warning("revoked messages that wait for their turn end when it comes: %s", error)
        else:
            self._record_removed(found, lambda: None)

    def _record_removed(self, found: Sequence[Found], then: Callable[[], None]) -> None:
        records = [record for one in found if (record := ends.removed(one)) is not None]
        if records:
            self._mailbox.post(self._store, records, then)
        else:
            then()

    def _answer(self, ask: Ask, value: bytes, error: str | None = None, text: str = "") -> None:
        reply = wire.Reply(ask.request.spawn, ask.request.number, value, error, text)
        self._mailbox.post(ask.caller.answer, reply)

    def _begin_wait(self, ask: Ask, ids: list[str], timeout: float) -> None:
        if self._link.results is None:
            raise TransportError("this engine keeps no results: set url under [results]")
        self._waits.add(ask, ids, timeout)

    def _look_up(self, wanted: LookUp) -> None:
        found: Mapping[str, Record] | None = None
        if self._link.results is not None:
            try:
                found = self._link.results.get(wanted.ids)
            except TransportError as error:
                self._link.results_outage.failed(self.lane, error)
            else:
                self._link.results_outage.worked(self.lane)
        self._mailbox.post(wanted.then, found)

    def _get(self, ids: Sequence[str]) -> Mapping[str, Record]:
        assert self._link.results is not None
        try:
            found = self._link.results.get(ids)
        except BrokerUnavailable as error:
            self._link.results_outage.failed(self.lane, error)
            return {}
        self._link.results_outage.worked(self.lane)
        return found


def _methods(link: Link) -> dict[str, Callable[..., Any]]:
    """Returns what each method of a relay does; ``publish``, ``revoke`` and ``wait`` are the lane's own."""
    transport, results = link.transport, link.results
    methods: dict[str, Callable[..., Any]] = {
        "capabilities": lambda: transport.capabilities,
        "counts": lambda queues: dict(transport.counts(queues)),
        "find": lambda task_id: _found(transport.find(task_id)),
        "scheduled": lambda limit, queue: list(transport.scheduled(limit, queue)),
        "dead": lambda limit, queue: list(transport.dead(limit, queue)),
        "dead_letter": transport.dead_letter,
        "replay": transport.replay,
        "drop": transport.drop,
        "purge": transport.purge,
        "pause": transport.pause,
        "broadcast": transport.broadcast,
        "check": lambda: list(transport.check()),
    }
    if results is None:
        return methods | dict.fromkeys(("get", "forget", "check_results"), _no_results)
    return methods | {
        "get": lambda ids: dict(results.get(ids)),
        "forget": results.forget,
        "check_results": lambda: list(results.check()),
    }


def _found(found: object) -> tuple[bool, object]:
    return (False, None) if isinstance(found, CannotTell) else (True, found)


def _no_results(*args: object) -> Any:
    raise TransportError("this engine keeps no results: set url under [results]")
