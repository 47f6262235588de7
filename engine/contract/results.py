"""The result backend contract: three calls on opaque records, fenced by age."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

PENDING = "PENDING"
STARTED = "STARTED"
RETRY = "RETRY"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
FINAL_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
"""States that the engine itself writes at a task's end. ``final`` on the record decides, not the name: a task may
write any state with ``update_state`` and is not ended by it."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What is kept about one task: its latest state.

    Records of one id are ordered by ``(sent, retries, deliveries)``: a backend never lets an older record overwrite a
    newer one; an equal one overwrites. ``body`` is JSON (see `Body`), opaque to the backend. ``keep=False`` asks to
    remove what is kept for the id (under the same order); such a record has no body.
    """

    id: str
    state: str
    sent: float
    retries: int
    deliveries: int
    body: bytes
    final: bool = False
    keep: bool = True

    @property
    def order(self) -> tuple[float, int, int]:
        """The key by which records of one id are ordered."""
        return (self.sent, self.retries, self.deliveries)


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception as data. It is never turned back into an object by importing anything."""

    type: str
    module: str
    text: str
    args: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """JSON list of the exception's args where JSON carries them, else absent."""


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON object in a record's ``body``. Times are seconds since the epoch."""

    state: str
    task: str
    date: float
    """When the state was reached."""
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """SUCCESS: the value as the task's codec wrote it. Custom states: the meta given to ``update_state``, as JSON."""
    serializer: str = "json"
    failure: Failure | None = None
    traceback: str | None = None
    retries: int = 0
    worker: str = ""
    runtime: float | None = None
    """Seconds that the run took."""
    children: list[str] | None = None
    parent: str | None = None
    root: str | None = None
    notes: dict[str, Any] | None = None


class ResultBackend(ABC):
    """Keeps the latest record of each task for ``expires`` seconds.

    Inside a worker ``store`` is called by the settle lane only, and ``get`` and ``wait`` by the publish lane only, at
    the same time; in a client one thread at a time calls any of them. Lanes, connections, forks and errors are those of
    `engine.contract.transport`: each lane has a connection of its own, which may pass from thread to thread.
    """

    in_process: ClassVar[bool] = False
    """As `Capabilities.in_process`."""
    options: ClassVar[Mapping[str, type]] = {}
    """The further keys that it takes from ``[results]``, with their types."""

    def __init__(self, url: str, *, expires: float, options: Mapping[str, Any]) -> None:
        """Takes the URL and how long records are kept (seconds). Must not connect: that happens at the first use."""
        self.url = url
        self.expires = expires

    @abstractmethod
    def store(self, records: Sequence[Record]) -> None:
        """Writes records in the order given, each unless a newer one is there. Durable when it returns."""

    @abstractmethod
    def get(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """Returns the records that exist, by id."""

    @abstractmethod
    def wait(self, ids: Sequence[str], timeout: float) -> Iterator[Record]:
        """Yields the final record of each id as it is there, and ends when all were yielded or after ``timeout`` s.

        A notification may be a hint only: whatever happens to it, a record that is there is yielded within a second.
        """

    @abstractmethod
    def forget(self, ids: Sequence[str]) -> None:
        """Removes what is kept for the ids. Unknown ids are no error."""

    def check(self) -> Sequence[str]:
        """Connects, and returns what an operator should know (a sentence each). Called by ``engine check``."""
        self.get(())
        return ()

    @abstractmethod
    def close(self) -> None:
        """Closes connections. May be called more than once, from any thread, and never raises."""
