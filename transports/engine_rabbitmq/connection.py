"""One connection to RabbitMQ, and the thread that owns it.

pika's objects belong to one thread. So heartbeats go on however busy the lanes are, and whoever wants something posts
it here: whole batches, as each post costs a wake-up of this thread.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import pika
from pika.adapters.select_connection import IOLoop

from engine.errors import BrokerFull, BrokerUnavailable
from engine_rabbitmq.address import Address
from engine_rabbitmq.failures import failure

log = logging.getLogger("engine.rabbitmq")
T = TypeVar("T")
ANSWER_TIMEOUT = 10.0
"""Seconds after which a request that has no answer ends the connection."""
_SILENT = 1.5
"""Heartbeats without a byte from the server after which it is gone. (pika itself takes up to four.)"""
_LISTEN = 0.5
"""Seconds between two looks for bytes."""
_GOODBYE = 2.0
"""Seconds that a goodbye may take."""
_LAST = 0.1
"""Seconds in which pika closes the socket of a connection that was cut."""
_pika = logging.getLogger("pika")
if _pika.level == logging.NOTSET:
    _pika.setLevel(logging.CRITICAL)  # it tells every failure several times, with tracebacks; we tell it once


class Connection:
    """A connection. It is opened once, and once it has ended it stays so: `error` says why."""

    def __init__(self, address: Address, purpose: str) -> None:
        self.address = address
        self.error: BrokerUnavailable | None = None
        """Why it ended; None while it is up."""
        self.blocked_since: float | None = None
        """Monotonic time since when the server refuses what is published; None: it does not."""
        self.raw: Any = None
        """pika's. For the connection's own thread only."""
        self.on_end: Callable[[BrokerUnavailable], None] = lambda error: None
        """Called in the connection's thread when the connection has ended."""
        self._purpose = purpose
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._ioloop: Any = None
        self.closing = False
        """Has `close` been called?"""
        self._thread = threading.Thread(target=self._run, name=f"engine-rabbitmq-{purpose}", daemon=True)
        self._opened: Future[None] = Future()

    def open(self) -> None:
        """Connects. Raises BrokerUnavailable."""
        _open.add(self)
        self._thread.start()
        self._opened.result()

    @property
    def server(self) -> dict[str, Any]:
        """What the server says of itself."""
        properties: dict[str, Any] = self.raw.server_properties or {}
        return properties

    def post(self, call: Callable[[], None]) -> None:
        """Has a call made in the connection's thread; not at all when the connection has ended. Any thread."""
        if self.error is None:
            with contextlib.suppress(OSError, ValueError):  # the loop was closed in this moment
                self._ioloop.add_callback_threadsafe(call)

    def ask(self, begin: Callable[[Future[T]], None], timeout: float = ANSWER_TIMEOUT) -> T:
        """Has ``begin`` called in the connection's thread, and waits for what it puts into the future.

        Raises BrokerUnavailable when the connection ends or there is no answer in time, which ends it.
        """
        future = self.start(begin)
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():
                raise
            if self.blocked_since is not None:
                place = self.address.place
                raise BrokerFull(f"{place}: the server refuses messages, and answers nothing meanwhile") from None
            raise self.abort(f"no answer for {timeout:g} s") from None

    def start(self, begin: Callable[[Future[T]], None]) -> Future[T]:
        """As `ask`, without waiting. The future fails when the connection ends."""
        future: Future[T] = Future()
        with self._lock:
            if self.error is not None:
                raise self.error
            self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        self.post(lambda: _begin(begin, future))
        return future

    def abort(self, why: str) -> BrokerUnavailable:
        """Ends the connection at once, without a goodbye, and returns the error. Any thread."""
        error = self._end(BrokerUnavailable(f"{self.address.place}: {why}"))
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it has ended by itself, or never began
            self._ioloop.add_callback_threadsafe(self._cut)
        return error

    def close(self) -> None:
        """Says goodbye and waits for the thread's end. Any thread but the connection's; never raises."""
        self.closing = True
        _open.discard(self)
        if self._thread.ident is None:
            return
        self.post(self._say_goodbye)
        self._thread.join(_GOODBYE)
        if self._thread.is_alive():
            self.abort("the server does not answer a goodbye")
            self._thread.join(_GOODBYE)

    def _run(self) -> None:
        error: BaseException | None = None
        for parameters in self.address.parameters(self._purpose):
            error = self._serve(parameters)
            if self._opened.done():
                break
        ended = self._end(failure(error or ConnectionError("closed"), self.address.place))
        if not self._opened.done():
            self._opened.set_exception(ended)
        self.on_end(ended)

    def _serve(self, parameters: pika.ConnectionParameters) -> BaseException | None:
        """Connects, and serves the connection until it ends; returns why."""
        ends: list[BaseException] = []
        self._ioloop = IOLoop()

        def end(raw: Any, error: Any) -> None:
            ends.append(error if isinstance(error, BaseException) else ConnectionError(str(error)))
            # Not at once: pika closes the socket in the next turn of the loop.
            self._ioloop.call_later(0, self._ioloop.stop)

        try:
            pika.SelectConnection(parameters, self._on_open, end, end, custom_ioloop=self._ioloop)
            self._ioloop.start()
        except Exception as error:
            log.debug("the loop of a connection failed", exc_info=True)
            ends.append(error)
            self._drain()
        with contextlib.suppress(Exception):
            self._ioloop.close()
        return ends[0] if ends else None

    def _on_open(self, raw: Any) -> None:
        self.raw = raw
        raw.add_on_connection_blocked_callback(self._on_blocked)
        raw.add_on_connection_unblocked_callback(self._on_unblocked)
        raw.ioloop.call_later(_LISTEN, lambda: self._listen(raw.bytes_received, 0))
        self._opened.set_result(None)

    def _listen(self, received: int, silent: int) -> None:
        """Ends the connection to a server that is silent. It counts looks, not seconds: a process that was stopped has
        heard nothing either."""
        if self.error is not None or not self.raw.is_open:
            return
        now = self.raw.bytes_received
        silent = 0 if now != received else silent + 1
        if silent * _LISTEN > _SILENT * self.address.heartbeat:
            self.abort("no sign of life from the server")
        else:
            self.raw.ioloop.call_later(_LISTEN, lambda: self._listen(now, silent))

    def _on_blocked(self, raw: Any, frame: Any) -> None:
        self.blocked_since = time.monotonic()
        log.warning("%s refuses messages: %s", self.address.place, frame.method.reason)

    def _on_unblocked(self, raw: Any, frame: Any) -> None:
        self.blocked_since = None
        log.info("%s takes messages again", self.address.place)

    def _end(self, error: BrokerUnavailable) -> BrokerUnavailable:
        with self._lock:
            if self.error is None:
                self.error = error
            waiting = list(self._waiting)
        for future in waiting:
            fail(future, self.error)
        return self.error

    def _say_goodbye(self) -> None:
        if self.raw is not None and self.raw.is_open:
            self.raw.close()
        else:
            self._ioloop.stop()

    def _cut(self) -> None:
        # pika's own way to drop a connection waits for the peer; a peer that is silent is why this is called.
        transport = getattr(self.raw, "_transport", None)
        if transport is None:
            self._ioloop.stop()
            return
        with contextlib.suppress(Exception):  # the socket may be closed by now, which is what is wanted
            transport.abort()
        self._ioloop.call_later(_LAST, self._ioloop.stop)

    def _drain(self) -> None:
        """Closes the socket of a loop that failed."""
        with contextlib.suppress(Exception):  # whatever failed before may fail again; the socket is closed all the same
            self._cut()
            self._ioloop.start()


def _begin(begin: Callable[[Future[T]], None], future: Future[T]) -> None:
    try:
        begin(future)
    except Exception as error:  # noqa: BLE001 - told to whoever asked: a channel that is closed raises here
        fail(future, error)


def fail(future: Future[Any], error: BaseException) -> None:
    """Puts an error into a future, unless that has an answer."""
    with contextlib.suppress(Exception):  # answered in this very moment
        future.set_exception(error)


_open: weakref.WeakSet[Connection] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for connection in list(_open):
        connection.close()
