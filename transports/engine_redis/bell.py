"""How a worker with nothing to do sleeps at Redis, and what wakes it.

- Each queue has a bell: a list that is empty or holds one item. Whoever makes a message ready rings it; ``BLPOP`` hands
  the ring to the one worker that has waited longest, so that one message does not wake a hundred workers.
- A ring that this worker takes while it wants nothing would be lost to the others: so before it goes to sleep without
  wanting messages it ends that wait, and rings again if it was rung meanwhile.
- Orders (revocations) are for all workers: a channel says that there is one. The same connection carries both, which
  takes RESP3 (Redis 6).
- ``wake`` comes from other threads: an eventfd beside the socket.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import time
from collections.abc import Sequence

import hiredis

from engine_redis.scripts import NUDGE, RING
from engine_redis.server import Session


class Bell:
    """One worker's sleep. Belongs to the fetch lane, except `wake`."""

    def __init__(self, commands: Session, worker: str, queues: Sequence[str]) -> None:
        prefix = commands.address.prefix
        self._commands = commands
        self._session = Session(commands.address, protocol=3)
        self._worker = worker
        self._own = f"{prefix}nudge:{worker}".encode()
        self._keys = [f"{prefix}bell:{queue}" for queue in queues]
        self._strip = len(f"{prefix}bell:")
        self._wakener = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._armed = False
        self._quiet_until = 0.0
        self.ordered = False
        """Was there word of an order?"""

    def __del__(self) -> None:
        os.close(self._wakener)

    @property
    def quiet(self) -> bool:
        """Has nothing become ready since `rest` was called, as far as is known? A bell that rings while nobody listens
        is heard by the next who does: so it need not be listened to yet, if there is time for that."""
        return time.monotonic() < self._quiet_until

    @property
    def heard(self) -> bool:
        """Is it listened to already?"""
        return self._armed

    def rest(self, seconds: float) -> None:
        """Says that nothing was ready a moment ago, and will not be for so long unless the bell rings."""
        self._quiet_until = time.monotonic() + seconds

    def stir(self) -> None:
        """Has the next look go to the server, whatever the bell says: a ring may have been lost."""
        self._quiet_until = 0.0

    def wake(self) -> None:
        """Ends a wait, or the next. Any thread."""
        os.eventfd_write(self._wakener, 1)

    def was_woken(self) -> bool:
        """Has `wake` been called since the last time this was asked?"""
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(self._wakener) > 0
        return False

    def wait(self, seconds: float, *, wanting: bool) -> None:
        """Sleeps until something comes. ``wanting``: also for messages. Raises BrokerUnavailable."""
        if not self._session.connected:
            self._connect()
        if wanting and not self._armed:
            self._session.send("BLPOP", *self._keys, self._own, 0)
            self._armed = True
        elif not wanting:
            self.stir()
            if self._armed:
                self._disarm()
        if self.ordered:
            seconds = 0.0
        elif wanting:
            seconds = min(seconds, self._quiet_until - time.monotonic())
        self._poll(max(seconds, 0.0))

    def listen(self) -> bool:
        """Takes note of what has come, without waiting; False: nobody has been listening. Raises BrokerUnavailable."""
        if not self._session.connected:
            return False
        self._poll(0.0)
        return True

    def close(self) -> None:
        """Closes the connection."""
        self._session.close()

    def _connect(self) -> None:
        self._armed = False
        self._session.call("SUBSCRIBE", orders_channel(self._session))
        # What was ordered before this moment was announced to nobody.
        self.ordered = True
        self._quiet_until = 0.0

    def _poll(self, seconds: float) -> bytes | None:
        """Waits for the socket or `wake`; returns the bell that rang."""
        poll = select.poll()
        connection = self._session.connection()
        poll.register(connection, select.POLLIN)
        poll.register(self._wakener, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(math.ceil(min(seconds, 3600.0) * 1000))}
        return self._hear() if connection.fileno() in ready else None

    def _hear(self) -> bytes | None:
        rung: bytes | None = None
        for reply in self._session.read_some():
            if isinstance(reply, hiredis.PushNotification):
                self.ordered = True
            else:
                self._armed = False
                self.stir()
                rung = reply[0]
        return rung

    def _disarm(self) -> None:
        """Ends the wait at the bells, giving a ring that came meanwhile to another worker."""
        self._commands.run(NUDGE, [self._worker])
        deadline = time.monotonic() + self._session.address.timeout
        rung = None
        while self._armed and time.monotonic() < deadline:
            rung = self._poll(deadline - time.monotonic())
        if rung is not None and rung != self._own:
            self._commands.run(RING, [self._worker, rung[self._strip :]])


def orders_channel(session: Session) -> str:
    """Returns the channel that says that there is an order. Channels are not part of a database: the number is."""
    return f"{session.address.prefix}orders@{session.address.db}"
