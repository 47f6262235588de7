"""Sends tasks while things die: each once, however often its send has to be repeated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from engine.app.connect import transport_for
from engine.app.settings import Settings
from engine.contract.message import Batch, Message
from engine.errors import BrokerFull, BrokerUnavailable

BATCH = 50


class Feeder(threading.Thread):
    """Keeps the broker supplied with tasks until it is told to stop.

    ``waiting()`` says how many tasks are sent and not ended; more are sent while they are fewer than ``ahead``.
    """

    def __init__(self, settings: Settings, *, args: str, ahead: int, waiting: Callable[[int], int]) -> None:
        super().__init__(name="feeder", daemon=True)
        self.ids: list[str] = []
        """What the broker has acknowledged, or may have taken."""
        self.repeated = 0
        """Sends whose answer was lost, or refused."""
        self.failure: BaseException | None = None
        self._settings = settings
        self._args = msgspec.Raw(args.encode())
        self._ahead = ahead
        self._waiting = waiting
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Lets the batch that is on its way arrive, and ends."""
        self._stopping.set()
        self.join(60)
        if self.is_alive() and self.failure is None:
            self.failure = AssertionError("a send hangs")

    def run(self) -> None:
        """The thread's body."""
        transport = transport_for(self._settings)
        number = 0
        try:
            while not self._stopping.is_set():
                if self._waiting(len(self.ids)) >= self._ahead:
                    time.sleep(0.005)
                    continue
                number += 1
                messages = [self._message(f"t{len(self.ids) + count}") for count in range(BATCH)]
                envelopes = [message.envelope() for message in messages]
                self.ids += [message.id for message in messages]
                self._send(lambda: transport.publish(envelopes, batch=Batch("feeder", number)))  # noqa: B023 - called at once
        except BaseException as error:  # noqa: BLE001 - told to whoever judges
            self.failure = error
        finally:
            transport.close()

    def _message(self, id: str) -> Message:
        return Message(version=1, id=id, task="faults.sleep", sent=time.time(), args=self._args)

    def _send(self, send: Callable[[], None]) -> None:
        """Repeats a send under its number until it is answered: so the broker takes it once."""
        while True:
            try:
                send()
                return
            except (BrokerUnavailable, BrokerFull):
                self.repeated += 1
                time.sleep(0.05)
