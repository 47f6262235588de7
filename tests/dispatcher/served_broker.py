"""A broker for tests: the memory transport, living in the test's process and served to a dispatcher that is forked from
it. It outlives any dispatcher, the test sees every call, and `Served.fault` makes calls fail.

Loaded in the dispatcher as a plugin file, for URLs of the scheme ``served``.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from engine.contract import Batch, Capabilities, Consumer, Envelope, Record, ResultBackend, Transport, Worker
from engine.contract.hookspecs import hookimpl
from engine_memory import MemoryResults, MemoryTransport
from engine_memory.transport import MemoryConsumer

Fault = Callable[[str, tuple[Any, ...]], Exception | None]
_numbers = itertools.count()


class Served:
    """The serving side. ``fault(method, args)`` may return what a call is to raise; ``after`` is called when a call was
    carried out, before its answer: it may raise in its place (a lost reply) or never return."""

    def __init__(self, folder: Path, *, shared: bool = True) -> None:
        url = f"memory://served{next(_numbers)}"
        self.transport = MemoryTransport(url, options={})
        self.results = MemoryResults(url, expires=3600.0, options={})
        self.shared = shared and self.transport.share_results(self.results)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.fault: Fault = lambda method, args: None
        self.after: Fault = lambda method, args: None
        self._consumers: dict[str, MemoryConsumer] = {}
        self._woken: dict[str, bool] = {}
        self._listener = Listener(str(folder / "broker.sock"), "AF_UNIX", backlog=64)
        self.url = f"served://{folder}/broker.sock"
        threading.Thread(target=self._accept, daemon=True).start()

    def called(self, method: str) -> list[tuple[Any, ...]]:
        """Returns the arguments of all calls of a method."""
        return [args for name, args in list(self.calls) if name == method]

    def close(self) -> None:
        """Stops serving."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        while True:
            try:
                target, method, args, kwargs = connection.recv()
            except (EOFError, OSError):
                return
            try:
                answer = (True, self._call(connection, target, method, args, kwargs))
            except Exception as error:  # noqa: BLE001 - it belongs to the caller
                answer = (False, error)
            try:
                connection.send(answer)
            except OSError:
                return

    def _call(self, connection: Connection, target: str, method: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        if target == "self":
            return getattr(self, method)(*args)
        self.calls.append((method, args))
        if (error := self.fault(method, args)) is not None:
            raise error
        if method == "fetch":
            value = self._fetch(connection, target, *args)
        else:
            value = getattr(self._target(target), method)(*args, **kwargs)
        if (error := self.after(method, args)) is not None:
            raise error
        return value

    def _fetch(self, connection: Connection, key: str, limit: int, timeout: float) -> Any:
        """Fetches in slices: a dead dispatcher's call must claim nothing, and a fault ends a wait."""
        consumer = self._consumers[key]
        deadline = time.monotonic() + timeout
        while True:
            found = consumer.fetch(limit, min(0.005, max(0.0, deadline - time.monotonic())))
            if found or self._woken.pop(key, False) or consumer._has_commands() or connection.poll():
                return found
            if (error := self.fault("fetch", (limit, timeout))) is not None:
                raise error
            if time.monotonic() >= deadline:
                return found

    def wake(self, key: str) -> None:
        """Ends a consumer's fetch."""
        self._woken[key] = True

    def _target(self, target: str) -> Any:
        named: dict[str, Any] = {"transport": self.transport, "results": self.results}
        return named[target] if target in named else self._consumers[target]

    def is_shared(self) -> bool:
        """Does ``settle`` store records?"""
        return self.shared

    def add_consumer(self, key: str, queues: list[str], worker: Worker) -> None:
        """Makes a consumer under a name."""
        consumer = self.transport.consume(queues, worker)
        assert isinstance(consumer, MemoryConsumer)
        self._consumers[key] = consumer


class _Line:
    """The calling side: a connection for each thread that calls."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._local = threading.local()

    def __call__(self, target: str, method: str, *args: Any, **kwargs: Any) -> Any:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = Client(self._address, "AF_UNIX")
        connection.send((target, method, args, kwargs))
        ok, value = connection.recv()
        if not ok:
            raise value
        return value


class ServedTransport(Transport):
    """Calls the broker of the test's process."""

    capabilities = Capabilities(publishes_once=True, stores_results=True, finds=True, revokes=True, keeps_claims=True)

    def __init__(self, url: str, *, options: Any) -> None:
        super().__init__(url, options=options)
        self.line = _Line(url.removeprefix("served://"))

    def share_results(self, backend: object) -> bool:
        return bool(self.line("self", "is_shared"))

    def consume(self, queues: Any, worker: Worker) -> Consumer:
        key = f"consumer{next(_numbers)}.{threading.get_native_id()}"
        self.line("self", "add_consumer", key, list(queues), worker)
        return ServedConsumer(self.line, key)

    def publish(self, envelopes: Any, *, batch: Batch | None = None) -> None:
        self.line("transport", "publish", list(envelopes), batch=batch)

    def counts(self, queues: Any = None) -> Any:
        return self.line("transport", "counts", queues)

    def revoke(self, ids: Any, until: float) -> Any:
        return self.line("transport", "revoke", ids, until)

    def find(self, id: str) -> Any:
        return self.line("transport", "find", id)

    def scheduled(self, limit: int = 100, queue: str | None = None) -> Any:
        return self.line("transport", "scheduled", limit, queue)

    def dead(self, limit: int = 100, queue: str | None = None) -> Any:
        return self.line("transport", "dead", limit, queue)

    def dead_letter(self, id: str) -> Any:
        return self.line("transport", "dead_letter", id)

    def replay(self, ids: Any) -> int:
        return int(self.line("transport", "replay", ids))

    def drop(self, ids: Any) -> int:
        return int(self.line("transport", "drop", ids))

    def purge(self, queue: str) -> int:
        return int(self.line("transport", "purge", queue))

    def pause(self, queue: str, paused: bool) -> None:
        self.line("transport", "pause", queue, paused)

    def broadcast(self, command: bytes) -> None:
        self.line("transport", "broadcast", command)

    def close(self) -> None:
        pass


class ServedConsumer(Consumer):
    """One consumer of it."""

    def __init__(self, line: _Line, key: str) -> None:
        self._line = line
        self._key = key

    def fetch(self, limit: int, timeout: float) -> Any:
        return self._line(self._key, "fetch", limit, timeout)

    def wake(self) -> None:
        self._line("self", "wake", self._key)

    def renew(self, started: Any) -> None:
        self._line(self._key, "renew", set(started))

    def reconcile(self, held: Any) -> Any:
        return self._line(self._key, "reconcile", set(held))

    def takeover(self, max_crashes: int, max_deliveries: int) -> Any:
        return self._line(self._key, "takeover", max_crashes, max_deliveries)

    def commands(self) -> Any:
        return self._line(self._key, "commands")

    def settle(self, settlements: Any) -> Any:
        return self._line(self._key, "settle", list(settlements))

    def close(self) -> None:
        self._line(self._key, "close")


class ServedResults(ResultBackend):
    """The result backend of the test's process."""

    def __init__(self, url: str, *, expires: float, options: Any) -> None:
        super().__init__(url, expires=expires, options=options)
        self._line = _Line(url.removeprefix("served://"))

    def store(self, records: Any) -> None:
        self._line("results", "store", list(records))

    def get(self, ids: Any) -> Any:
        return dict(self._line("results", "get", ids))

    def wait(self, ids: Any, timeout: float) -> Any:
        found: dict[str, Record] = self.get(ids)
        return iter(found.values())

    def forget(self, ids: Any) -> None:
        self._line("results", "forget", ids)

    def close(self) -> None:
        pass


@hookimpl
def engine_transport(scheme: str) -> type[Transport] | None:
    return ServedTransport if scheme == "served" else None


@hookimpl
def engine_results(scheme: str) -> type[ResultBackend] | None:
    return ServedResults if scheme == "served" else None


__all__ = ["Envelope", "Served"]
