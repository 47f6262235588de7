"""Observers hear what happens, and can hold nothing up."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pluggy
import pytest
import watching_plugin
from dispatcher_rig import Rig, message, wait_for

from engine.contract import Event, Record, hookimpl, hookspecs
from engine.contract.transport import Again, Dead
from engine.runtime.dispatcher.observers import KEPT, Observers


def test_an_observer_hears_of_every_step(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig()
    watched = rig.folder / "watched"
    monkeypatch.setenv("WATCHED", str(watched))
    rig.settings.plugins.load.append(watching_plugin.__file__)
    rig.start()
    child = rig.children[0]
    rig.publish(message("bad"))
    child.end(child.take())
    rig.publish(message("a"))
    child.end(child.take())
    rig.publish(message("b"))
    packet = child.take()
    child.end(packet, Again(packet.claim, message("b", retries=1, eta=9e9).envelope(), None), state="RETRY")
    rig.publish(message("c"))
    packet = child.take()
    child.end(packet, Dead(packet.claim, "no", Record("c", "FAILURE", 1.0, 0, 1, b"{}", True)), state="FAILURE")
    rig.publish(message("d"))
    child.die(child.take())
    rig.publish(message("e", "t.unknown"))
    rig.wait_place("e", "dead")
    assert rig.finish() == 0
    lines = watched.read_text().splitlines()
    assert lines[0] == "start engine w1"
    assert lines[-1] == "stop engine w1"
    for id, kinds in {"a": ["received", "started", "succeeded"], "b": ["received", "started", "retried"]}.items():
        assert [line.split()[0] for line in lines if line.endswith(f" {id}")] == kinds
    for line in ("dead c", "started d", "lost d", "dead e"):
        assert line in lines
    assert "engine_events failed" in rig.log


class Stuck:
    """An observer that does not come back."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.heard = 0

    @hookimpl
    def engine_events(self, events: list[Event]) -> None:
        self.go.wait(10.0)
        self.heard += len(events)


def test_what_an_observer_is_too_slow_for_is_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    plugins = pluggy.PluginManager("engine")
    plugins.add_hookspecs(hookspecs)
    assert not Observers.wanted(plugins)
    stuck = Stuck()
    plugins.register(stuck)
    assert Observers.wanted(plugins)
    observers = Observers(plugins, "demo", "w1")
    observers.start()
    events = [Event("received", 1.0, "t", "a")] * 1000
    for _ in range(15):
        observers.tell(events)
    stuck.go.set()
    observers.stop()
    assert KEPT <= stuck.heard < 15_000
    wait_for(lambda: "events were dropped" in caplog.text, "the log line")
