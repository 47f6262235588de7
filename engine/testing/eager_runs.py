"""Tasks that run where they are sent: the code that a child runs, on a clock that skips all waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from engine.app import clock
from engine.app.app import Engine
from engine.app.calls import new_id
from engine.app.plugins import open_results, open_transport
from engine.app.results import AsyncResult
from engine.app.run import EagerRun
from engine.app.settings import BrokerSection, ResultsSection
from engine.app.wire import Outcome
from engine.contract.message import Message
from engine.contract.results import Body, Record
from engine.testing.sent import Sent, WatchedClient

_body = msgspec.json.Decoder(Body)


class Clock:
    """The time of day of a test: it stands still until somebody moves it."""

    def __init__(self) -> None:
        self._now = time.time()

    def now(self) -> float:
        """Returns seconds since the epoch."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves it forward."""
        self._now += seconds

    def move_to(self, moment: float) -> None:
        """Sets it, in seconds since the epoch."""
        self._now = moment


@dataclass(frozen=True)
class Ran:
    """One run of a task; each retry is one more."""

    task: str
    id: str
    retries: int
    waited: float
    """Seconds that a worker would have waited before it, since the call or since the run before."""
    state: str
    """What it ended as: SUCCESS, FAILURE, RETRY, REVOKED; "" when it left no state (`Ignore`)."""
    states: list[str]
    """The states it wrote on the way (STARTED, ``update_state``), in order."""
    reason: str | None


class Eager:
    """An app in eager mode, and what it did: the object behind `eager`."""

    def __init__(self, app: Engine, client: WatchedClient) -> None:
        self.app = app
        self.clock = Clock()
        """Moved by the test alone: each call goes on from here, and its countdowns and retries do not move it."""
        self.sent: list[Sent] = client.sent
        """Every message that was sent, in order; retries are not among them."""
        self.runs: list[Ran] = []
        """Every run, in order of its end."""
        self._client = client

    def runs_of(self, result: AsyncResult[object] | str) -> list[Ran]:
        """Returns the runs of one call."""
        return [ran for ran in self.runs if ran.id == str(result)]

    def waits(self, result: AsyncResult[object] | str) -> list[float]:
        """Returns how long each run of one call would have waited: ``[0.0, 60.0, 120.0]`` is a backoff."""
        return [ran.waited for ran in self.runs_of(result)]

    # For the app: `engine.app.eager.Watch`.

    @contextmanager
    def call(self, message: Message) -> Iterator[None]:
        """A call is a time line of its own: what it waits for has not happened to whoever sent it."""
        self.sent.append(Sent.of(message))
        begun = self.clock.now()
        try:
            yield
        finally:
            self.clock.move_to(begun)

    def run(self, message: Message, run: EagerRun, execute: Callable[[], Outcome]) -> Outcome:
        """Lets the message's time come, runs it and keeps what it wrote."""
        waited = max(0.0, (message.eta or 0.0) - self.clock.now())
        self.clock.advance(waited)
        before = len(run.records)
        outcome = execute()
        written = run.records[before:]
        ended = outcome.settlement.record
        self._keep([*written, *([ended] if ended is not None else [])])
        self.runs.append(
            Ran(
                task=message.task,
                id=message.id,
                retries=message.retries,
                waited=round(waited, 6),
                state=outcome.state,
                states=[_body.decode(record.body).state for record in written],
                reason=outcome.reason,
            )
        )
        return outcome

    def _keep(self, records: list[Record]) -> None:
        with self._client.results() as backend:
            backend.store(records)


@contextmanager
def eager(app: Engine, *, propagate: bool = False) -> Iterator[Eager]:
    """Runs what an app sends at once, here, until the end of the ``with`` block.

    Arguments and results take the way through the codec, retries and countdowns wait on a clock that skips the waiting,
    what expires before its time comes ends REVOKED, results are found by id. ``propagate``: ``delay`` raises what the
    task ended with. Limits are not enforced. Not for several threads at a time.
    """
    with watched_app(app) as client, _fake_clock() as replace:
        made = Eager(app, client)
        app.task_always_eager = True
        app.task_eager_propagates = propagate
        app.eager_watch = made
        replace(made.clock.now)
        yield made


@contextmanager
def recording(app: Engine) -> Iterator[list[Sent]]:
    """Keeps what an app sends, until the end of the ``with`` block; nothing runs. Yields the list."""
    with watched_app(app) as client:
        app.task_always_eager = False
        yield client.sent


@contextmanager
def watched_app(app: Engine) -> Iterator[WatchedClient]:
    """Lends an app, with a broker and a result backend in this process that nobody else sees."""
    url = f"memory://test-{new_id()}"
    with app.borrowed():
        client = WatchedClient(app)
        client.use(open_transport(BrokerSection(url)), open_results(ResultsSection(url)))
        app.client = client
        app.eager_watch = None
        app.set_current()
        yield client


@contextmanager
def _fake_clock() -> Iterator[Callable[[Callable[[], float]], None]]:
    kept = clock.now

    def replace(now: Callable[[], float]) -> None:
        clock.now = now

    try:
        yield replace
    finally:
        clock.now = kept
