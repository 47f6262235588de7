"""A process's connections to broker and result backend: opened at the first use, shared by its threads, never across a
fork."""

from __future__ import annotations

import itertools
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from engine.app.calls import new_id
from engine.app.config.urls import redact
from engine.app.forks import after_fork
from engine.app.options import RetryPolicy, check_names
from engine.app.settings import Settings
from engine.contract.message import Batch, Envelope
from engine.contract.results import ResultBackend
from engine.contract.transport import Transport
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError

T = TypeVar("T")
BULK = 500
"""Most messages in one round trip."""
POLICY: Mapping[str, Any] = {"max_retries": 3, "interval_start": 0.0, "interval_step": 0.2, "interval_max": 1.0}
"""How a send that fails is tried again, unless the call says otherwise. Never for ever: a send never hangs."""
_left_behind: list[Any] = []
"""What belonged to the parent of a fork: kept, as its destructors would write to the parent's sockets."""


class Client:
    """The connections of one `Engine` in this process. Methods may be called by any thread."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._given: tuple[Transport, ResultBackend | None] | None = None
        self._transport: Transport | None = None
        self._idle: list[ResultBackend] = []
        self._reset()
        _clients.add(self)

    def use(self, transport: Transport, results: ResultBackend | None) -> None:
        """From now on uses these, instead of opening what the settings name. Called in a child, with its relay."""
        self._reset()
        self._given = (transport, results)

    def publish(self, envelopes: Sequence[Envelope], policy: Mapping[str, Any] | None = POLICY) -> None:
        """Sends messages, `BULK` in a round trip. What fails is tried again as ``policy`` says (None: once), under the
        same batch number, so that a broker that remembers it takes it once. Raises BrokerUnavailable or BrokerFull."""
        for start in range(0, len(envelopes), BULK):
            part = envelopes[start : start + BULK]
            with self._sending:
                transport = self._transport_now()
                self._number += 1
                batch = Batch(self._producer, self._number)
                self._try(lambda: transport.publish(part, batch=batch), policy)  # noqa: B023 - called before the next round

    def broker(self, call: Callable[[Transport], T]) -> T:
        """Calls a method of the broker, one thread at a time."""
        with self._sending:
            return call(self._transport_now())

    @contextmanager
    def results(self) -> Iterator[ResultBackend]:
        """Lends a result backend to this thread. Raises ConfigError when none is configured."""
        if self._given is not None:
            if self._given[1] is None:
                raise _no_results()
            with self._asking:
                yield self._given[1]
            return
        backend = self._take()
        try:
            yield backend
        except BaseException:
            # It may have been left in the middle of an answer.
            backend.close()
            raise
        self._idle.append(backend)

    def close(self) -> None:
        """Closes all connections; the next use opens them again."""
        with self._sending:
            transport, self._transport = self._transport, None
        idle, self._idle = self._idle, []
        if transport is not None:
            transport.close()
        for backend in idle:
            backend.close()

    def after_fork(self) -> None:
        """Forgets, in the child of a fork, what belongs to the parent. Nothing is closed."""
        _left_behind.append((self._transport, self._idle, self._given, self._sending, self._asking))
        self._given = None
        self._reset()

    def _reset(self) -> None:
        self._sending = threading.RLock()
        self._asking = threading.RLock()
        self._transport = None
        self._idle = []
        self._producer = new_id()
        self._number = 0

    def _transport_now(self) -> Transport:
        if self._given is not None:
            return self._given[0]
        if self._transport is None:
            settings = self._settings()
            if settings.broker.url is None:
                raise ConfigError(
                    "no broker: give Engine(broker=...), or name a file in ENGINE_CONFIG, or set ENGINE_BROKER_URL"
                )
            from engine.app.connect import transport_for  # late: finding plugins takes 15 ms of every import

            self._transport = transport_for(settings)
        return self._transport

    def _take(self) -> ResultBackend:
        try:
            return self._idle.pop()
        except IndexError:
            from engine.app.connect import results_for  # late: finding plugins takes 15 ms of every import

            backend = results_for(self._settings())
        if backend is None:
            raise _no_results()
        return backend

    def _try(self, send: Callable[[], None], policy: Mapping[str, Any] | None) -> None:
        tries = policy["max_retries"] if policy else 1
        for count in itertools.count(1):
            try:
                send()
                return
            except (BrokerUnavailable, BrokerFull) as error:
                if policy is None or count >= tries:
                    raise self._named(error, count) from error
            time.sleep(min(policy["interval_start"] + count * policy["interval_step"], policy["interval_max"]))

    def _named(self, error: BrokerUnavailable | BrokerFull, tries: int) -> BrokerUnavailable | BrokerFull:
        url = redact(self._settings().broker.url or "")
        text = str(error) if url and url in str(error) else f"{url}: {error}"
        return type(error)(f"{text} (tried {tries} times)" if tries > 1 else text)


def policy_of(given: RetryPolicy | None) -> Mapping[str, Any]:
    """Returns a retry policy with what it leaves out, or says None to, filled in. Raises TypeError for an unknown name
    and ValueError for a value that does not fit."""
    if not given:
        return POLICY
    check_names(given, POLICY, "retry_policy")
    policy = {**POLICY, **{name: value for name, value in given.items() if value is not None}}
    for name, value in policy.items():
        kinds = int if name == "max_retries" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < math.inf:
            whole = "whole " if kinds is int else ""
            raise ValueError(f"retry_policy: {name} {value!r} is not a {whole}number of at least 0")
    return policy


def _no_results() -> ConfigError:
    return ConfigError(
        "no result backend, so nothing is known of results: give Engine(backend=...), or write [results] url = ... "
        "in the file that ENGINE_CONFIG names, or set ENGINE_RESULTS_URL"
    )


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _forget_parents() -> None:
    for client in list(_clients):
        client.after_fork()


after_fork(_forget_parents)
