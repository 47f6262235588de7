"""When a transport connects, and what it says of a broker that is not there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

import pytest

from engine.contract import Consumer, Envelope, Transport
from engine.errors import BrokerUnavailable
from engine.testing.transport_suite_kit import QUEUE, Rig, TransportKit


class ConnectingTests(TransportKit):
    """Objects may be made before a fork, so they hold nothing yet; and errors say what the engine has to know."""

    def test_making_a_transport_and_a_consumer_does_not_connect(self, rig: Rig) -> None:
        used = rig.another()
        used.check()  # what is opened only once, as modules are, is open now
        used.close()
        files, threads = _open_files(), set(threading.enumerate())
        transport = rig.another()
        consumer = transport.consume([QUEUE], rig.worker(locked=False))
        assert isinstance(consumer, Consumer)
        opened = sorted(place for _, place in _open_files() - files)
        assert not opened, f"__init__ and consume() wait for the first use: they may run before a fork. Open: {opened}"
        started = set(threading.enumerate()) - threads
        assert not started, f"__init__ and consume() start no thread: they may run before a fork. Started: {started}"

    def test_a_broker_that_is_not_there_is_unavailable(self, rig: Rig, unreachable: Transport | None) -> None:
        if unreachable is None:
            pytest.skip("override the fixture `unreachable` to have the errors tested")
        consumer = unreachable.consume([QUEUE], rig.worker(locked=False))
        _is_unavailable("publish()", lambda: unreachable.publish([Envelope(id="one", body=b"{}")]))
        _is_unavailable("counts()", lambda: unreachable.counts([QUEUE]))
        _is_unavailable("check()", unreachable.check)
        _is_unavailable("reconcile()", lambda: consumer.reconcile(()))
        _is_unavailable("fetch()", lambda: consumer.fetch(1, 0.1))


def _is_unavailable(name: str, call: Callable[[], object]) -> None:
    raised: Exception | None = None
    try:
        call()
    except Exception as error:  # noqa: BLE001 - which one it is, is the question
        raised = error
    told = "nothing" if raised is None else f"{type(raised).__name__}: {raised}"
    assert isinstance(raised, BrokerUnavailable), (
        f"{name} of a broker that is not there raises BrokerUnavailable, not {told}"
    )


def _open_files() -> set[tuple[str, str]]:
    """Returns number and place of the files and sockets that this process has open, but not of what its own threads
    call each other by (pipes and the like); nothing where the system does not tell."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the one that listed them is closed by now
                place = os.readlink(f"/proc/self/fd/{fd}")
                if not place.startswith(("anon_inode:", "pipe:")):
                    found.add((fd, place))
    return found
