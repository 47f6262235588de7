"""Runs in the dispatcher: tells observers what happened, in a thread of their own that nothing waits for."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

import msgspec
import pluggy

from engine.app import wire
from engine.contract.events import Event, Kind
from engine.contract.results import FAILURE, REVOKED, STARTED, SUCCESS
from engine.contract.transport import Again, Dead, Release, Settlement
from engine.runtime.dispatcher.handout import Held
from engine.runtime.dispatcher.settle import Ended, Item

log = logging.getLogger("engine.dispatcher")

KEPT = 10_000
"""Events that wait for slow observers; further ones are dropped, and counted."""
AT_ONCE = 500
TAKES_AT_MOST = 5.0
"""Seconds that observers get for the rest when the dispatcher ends."""


class Observers:
    """The enabled plugins that want to hear of tasks. Any thread may tell."""

    def __init__(self, plugins: pluggy.PluginManager, name: str, worker: str) -> None:
        self._plugins = plugins
        self._who = {"name": name, "worker": worker}
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._some = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine-observers", daemon=True)

    @staticmethod
    def wanted(plugins: pluggy.PluginManager) -> bool:
        """Does any plugin implement a hook that is called here?"""
        hooks = (plugins.hook.engine_worker_start, plugins.hook.engine_worker_stop, plugins.hook.engine_events)
        return any(hook.get_hookimpls() for hook in hooks)

    def start(self) -> None:
        """Starts the thread, which first says that the worker starts."""
        self._thread.start()

    def tell(self, events: Sequence[Event]) -> None:
        """Takes events, as far as there is room."""
        room = max(0, KEPT - len(self._events))
        self._events.extend(events[:room])
        self._dropped += max(0, len(events) - room)
        self._some.set()

    def stop(self) -> None:
        """Lets the observers hear the rest and the worker's end, for a few seconds at most."""
        self._stopping = True
        self._some.set()
        self._thread.join(TAKES_AT_MOST)

    def _run(self) -> None:
        self._call(self._plugins.hook.engine_worker_start, **self._who)
        while True:
            self._some.wait()
            self._some.clear()
            while self._events:
                self._pass_on()
            if self._stopping and not self._events:
                break
        self._call(self._plugins.hook.engine_worker_stop, **self._who)

    def _pass_on(self) -> None:
        events = [self._events.popleft() for _ in range(min(AT_ONCE, len(self._events)))]
        if self._dropped:
            count, self._dropped = self._dropped, 0
            log.warning("observers are too slow: %d events were dropped", count)
        self._call(self._plugins.hook.engine_events, events=events)

    def _call(self, hook: pluggy.HookCaller, **arguments: object) -> None:
        # One by one: an implementation that raises must not keep the others from hearing.
        for one in hook.get_hookimpls():
            others = [impl.plugin for impl in hook.get_hookimpls() if impl is not one]
            try:
                self._plugins.subset_hook_caller(hook.name, others)(**arguments)
            except Exception:  # observers must not be able to stop anything
                log.exception("plugin %s: %s failed", one.plugin_name, hook.name)


class Told:
    """Makes events of what the dispatcher does. Main lane."""

    def __init__(self, observers: Observers) -> None:
        self._observers = observers
        self._begun: set[tuple[str, int, int]] = set()
        """Runs whose start was told before their end: those of tasks with ``track_started``."""

    def received(self, held: Sequence[Held]) -> None:
        """Hears of messages that were fetched."""
        now = time.time()
        self._observers.tell(
            [
                Event(
                    "received",
                    now,
                    one.message.task,
                    one.message.id,
                    one.delivery.queue,
                    one.message.retries,
                    one.delivery.deliveries,
                )
                for one in held
            ]
        )

    def settled(self, items: Sequence[Item], stale: frozenset[bytes]) -> None:
        """Hears of ends that were settled, and of records on the way."""
        now = time.time()
        self._observers.tell([event for item in items for event in self._new(item, now)])

    def _new(self, item: Item, now: float) -> list[Event]:
        """Returns the events of an item, a start that was told before left out."""
        events = events_of(item, now)
        if not events:
            return events
        first = events[0]
        run = (first.id, first.retries, first.deliveries)
        if first.kind == "started" and run in self._begun:
            del events[0]
        if item.settlement is None:
            self._begun.add(run)
        else:
            self._begun.discard(run)
        return events


def events_of(item: Item, now: float) -> list[Event]:
    """Returns what an item means for observers: nothing for the acknowledgement of what is about to start."""
    if item.ended is not None:
        return [] if item.settlement is None else _events_of_end(item, item.ended, item.settlement, now)
    record = item.record
    if record is not None and record.state == STARTED:
        told = _told_of(record.body)
        pid = told.result.get("pid") if isinstance(told.result, dict) else None
        child = pid if isinstance(pid, int) else None
        return [
            Event(
                "started",
                now,
                told.task,
                record.id,
                retries=record.retries,
                deliveries=record.deliveries,
                child=child,
            )
        ]
    return []


def _events_of_end(item: Item, ended: wire.Outcome | Ended, settlement: Settlement, now: float) -> list[Event]:
    common = (item.task, item.id, ended.queue, ended.retries, ended.deliveries)
    events = []
    if ended.started:
        events.append(Event("started", now - (ended.runtime or 0.0), *common, child=ended.pid))
    if kind := _kind(settlement, ended.state):
        events.append(Event(kind, now, *common, runtime=ended.runtime, child=ended.pid, reason=ended.reason))
    return events


def _kind(settlement: Settlement, state: str) -> Kind | None:
    if isinstance(settlement, Dead):
        return "dead"
    if isinstance(settlement, Again):
        return "retried"
    if isinstance(settlement, Release):
        return "lost" if settlement.counts == "crash" else "released"
    return _KINDS.get(state)


class _ToldOf(msgspec.Struct):
    """What is read of a record's body."""

    task: str = ""
    result: object = None


_told_of = msgspec.json.Decoder(_ToldOf).decode
_KINDS: dict[str, Kind] = {SUCCESS: "succeeded", FAILURE: "failed", REVOKED: "revoked"}
