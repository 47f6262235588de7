"""One channel of a connection: requests from any thread, sent together, answered in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from pika import exceptions, spec

from engine_rabbitmq.connection import ANSWER_TIMEOUT, Connection, fail
from engine_rabbitmq.failures import failure

Call = tuple[str, dict[str, Any]]
"""A method of pika's channel and its arguments."""
_LATE = 60.0
"""Seconds for which a subscription that was cancelled takes what was on its way."""


class Channel:
    """A channel. What the server refuses closes it: the requests under way fail, then it opens again at the next."""

    def __init__(self, connection: Connection, on_open: Callable[[Any], None] = lambda channel: None) -> None:
        self.connection = connection
        self.raw: Any = None
        """pika's channel while it is open. For the connection's own thread only."""
        self.on_closed: Callable[[Exception], None] = lambda error: None
        """Called in the connection's thread when the server, or a lost connection, has closed it."""
        self.refusals_are_losses = False
        """Is a refusal told as BrokerUnavailable to all whose requests were under way, and not as pika's?"""
        self._on_open = on_open
        self._running: set[Future[Any]] = set()

    def call(self, method: str, **arguments: Any) -> Any:
        """Makes one request, and returns the answer's method. Raises as `call_all`."""
        return self.call_all([(method, arguments)])[0]

    def call_all(self, calls: Sequence[Call], timeout: float = ANSWER_TIMEOUT) -> list[Any]:
        """Makes requests in one go, and returns the answers' methods. Not for the connection's own thread.

        Raises pika's ChannelClosedByBroker when the server refuses one, BrokerUnavailable when the connection is gone.
        """
        return self.connection.ask(lambda future: self.begin(calls, future), timeout) if calls else []

    def begin(self, calls: Sequence[Call], future: Future[list[Any]]) -> None:
        """As `call_all`, the answers going into the future. The connection's thread."""
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        if self.raw is not None:
            self._send(calls, future)
        else:
            self.connection.raw.channel(on_open_callback=lambda raw: self._opened(raw, calls, future))

    def close(self) -> None:
        """Closes it; what it holds unacknowledged goes back. Any thread."""
        self.connection.post(self._close)

    def _opened(self, raw: Any, calls: Sequence[Call], future: Future[list[Any]]) -> None:
        raw.add_on_close_callback(self._closed)
        self.raw = raw
        self._on_open(raw)
        self._send(calls, future)

    def _send(self, calls: Sequence[Call], future: Future[list[Any]]) -> None:
        answers: list[Any] = []

        def answered(frame: Any) -> None:
            answers.append(frame.method)
            if len(answers) == len(calls) and not future.done():
                future.set_result(answers)

        try:
            for method, arguments in calls:
                if method == "basic_cancel":
                    cancel(self.raw, arguments["consumer_tag"], answered)
                else:
                    getattr(self.raw, method)(**arguments, callback=answered)
        except Exception as error:  # noqa: BLE001 - pika raises what is wrong with a request at once: told to its caller
            fail(future, error)

    def _closed(self, raw: Any, error: Exception) -> None:
        if raw is self.raw:
            self.raw = None
        told = failure(error, self.connection.address.place)
        refused = isinstance(error, exceptions.ChannelClosedByBroker) and not self.refusals_are_losses
        for future in list(self._running):
            fail(future, error if refused else told)
        self.on_closed(told)

    def _close(self) -> None:
        if self.raw is not None and self.raw.is_open:
            raw, self.raw = self.raw, None
            raw.close()


def cancel(raw: Any, tag: str, answered: Callable[[Any], None] = lambda frame: None) -> None:
    """Ends a subscription. The connection's thread.

    Not by pika's own method: that rejects what is still on its way, and a rejection counts as a delivery. So what comes
    behind the answer is taken too.
    """

    def gone(frame: Any) -> None:
        raw.connection.ioloop.call_later(_LATE, lambda: raw._consumers.pop(tag, None))
        answered(frame)

    raw._rpc(spec.Basic.Cancel(consumer_tag=tag), gone, [(spec.Basic.CancelOk, {"consumer_tag": tag})])
