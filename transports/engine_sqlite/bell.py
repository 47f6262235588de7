"""Waking each other across processes: one datagram socket per waiting process, listed in the table ``bell``.

- The sockets are in the abstract namespace, under random names: nothing is left behind when a process dies, no folder
  has to be shared, and no path is too long. Such names belong to a network namespace, so the table says which: nobody
  rings, or strikes from the list, an address of another.
- Whoever knows a name may ring it. A ring says nothing but "look": it costs the woken one a look, and no more.
- A full socket means that a ring is waiting there already.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

from engine.errors import TransportError
from engine_sqlite.session import Session

RESULTS = "results"
"""Topic of those who wait for a result."""
COMMANDS = "commands"
"""Topic of all consumers."""
FOREVER = 1e18

LISTED = """
SELECT json_group_array(DISTINCT address) FROM bell
WHERE topic IN (SELECT value FROM json_each(?)) AND space = ? AND until > ?
"""
"""Reads the bells of who listens to any of some topics, as JSON; parameters: `listed_parameters`. Read it in the
transaction whose effect is to be told, and `Ringer.ring` them when that is committed."""

_HAS_ABSTRACT = sys.platform == "linux"


def queue_topic(queue: str) -> str:
    """Returns the topic of those who wait for messages of a queue."""
    return f"queue:{queue}"


def listed_parameters(topics: Iterable[str], now: float) -> tuple[str, int, float]:
    """Returns the parameters of `LISTED`."""
    return (json.dumps([*topics]), network_space(), now)


def listed(connection: sqlite3.Connection, topics: Iterable[str], now: float) -> str:
    """Reads `LISTED` by itself."""
    return str(connection.execute(LISTED, listed_parameters(topics, now)).fetchone()[0])


@cache
def network_space() -> int:
    """Returns what tells this process's network namespace from others."""
    try:
        return os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return 0


class Bell:
    """What one waiting thread listens on. Where there are no abstract sockets it is only a clock."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._pid = os.getpid()
        self.address = f"engine-sqlite-{secrets.token_hex(12)}"
        self._poll = select.poll()
        self._stroke = threading.Event()
        if _HAS_ABSTRACT:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.bind("\0" + self.address)
            self._poll.register(self._socket, select.POLLIN)

    def __del__(self) -> None:
        self.close()

    @property
    def is_mine(self) -> bool:
        """Says whether this process made it: after a fork the parent and the child would steal each other's rings."""
        return self._pid == os.getpid()

    def wait(self, timeout: float) -> bool:
        """Waits for a ring, at most ``timeout`` seconds, and says whether one came. Consumes all that are there."""
        if self._socket is None:
            rung = self._stroke.wait(timeout)
            self._stroke.clear()
            return rung
        if not self._poll.poll(max(0.0, timeout) * 1000):
            return False
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(16, socket.MSG_DONTWAIT)
        return True

    def ring_here(self) -> None:
        """Rings this bell from another thread of the process."""
        if self._socket is None:
            self._stroke.set()
            return
        with suppress(OSError):  # full: a ring is waiting there already; closed: nobody waits any more
            self._socket.sendto(b"", socket.MSG_DONTWAIT, "\0" + self.address)

    def list_under(self, connection: sqlite3.Connection, topics: Iterable[str], until: float) -> None:
        """Lists the bell in the file. Inside a write transaction."""
        if self._socket is not None:
            connection.execute(
                "INSERT INTO bell SELECT value, ?, ?, ? FROM json_each(?) WHERE true "
                "ON CONFLICT (topic, address) DO UPDATE SET until = excluded.until",
                (self.address, network_space(), until, json.dumps([*topics])),
            )

    def strike(self, connection: sqlite3.Connection) -> None:
        """Takes the bell off the list. Inside a write transaction."""
        connection.execute("DELETE FROM bell WHERE address = ?", (self.address,))

    def close(self) -> None:
        """Closes the socket."""
        if self._socket is not None:
            self._socket.close()


class Ringer:
    """Rings the bells of others. Belongs to one session and is used under its lock or by its lane."""

    def __init__(self, session: Session) -> None:
        self._socket: socket.socket | None = None
        self._session = session

    def __del__(self) -> None:
        self.close()

    def ring(self, addresses: str) -> None:
        """Rings the bells that `LISTED` read. Never waits; strikes those that are gone off the list."""
        if addresses == "[]":
            return
        gone = [address for address in json.loads(addresses) if not self._reaches(address)]
        if not gone:
            return
        # What the ring is about has happened: nobody may take a failure here for one of that.
        with suppress(TransportError), self._session.write() as connection:
            connection.execute(
                "DELETE FROM bell WHERE address IN (SELECT value FROM json_each(?))", (json.dumps(gone),)
            )

    def close(self) -> None:
        """Closes the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _reaches(self, address: str) -> bool:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.sendto(b"", socket.MSG_DONTWAIT, "\0" + address)
        except ConnectionRefusedError:
            return False
        except OSError:  # full (it is awake), or not to be reached from here: the file's version tells it in time
            return True
        return True
