"""Runs in the dispatcher: a slot's outcome socket, read as a journal.

Surprising facts this rests on:

- With SO_PEEK_OFF set, MSG_PEEK goes forward from packet to packet while all of them stay in the socket. A dispatcher
  that dies has consumed nothing that was not settled: the next one sets the offset to 0 and sees it again.
- Consuming a packet moves the offset back by that packet's length, so peeking goes on where it was.
- Only the first packet can be consumed. What is done behind one that is not waits for it.
- ``recv`` without a control buffer is much cheaper than ``recvmsg``, and the kernel closes the descriptor of a packet
  read so. A large packet (one byte, ``MEMFD``) is therefore peeked at again, with ``recvmsg``.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from typing import Any

import msgspec

from engine.app import wire

log = logging.getLogger("engine.dispatcher")

SO_PEEK_OFF = 42
_PEEK = wire.PEEK | wire.NOW


class Entry:
    """One packet in a journal: not consumed before it is done."""

    __slots__ = ("done", "journal")

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.done = False


class Journal:
    """The outcome socket of one slot. Main lane only."""

    def __init__(self, slot: int, sock: socket.socket) -> None:
        self.slot = slot
        self.sock = sock
        self._entries: deque[Entry] = deque()
        sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)

    def __len__(self) -> int:
        return len(self._entries)

    def read(self) -> list[tuple[Entry, Any]]:
        """Returns the packets that came since the last call, in order, each with its entry."""
        found: list[tuple[Entry, Any]] = []
        recv, decode, entries = self.sock.recv, wire.decode, self._entries
        try:
            while data := recv(wire.BUFFER, _PEEK):
                if data == wire.MEMFD:
                    data = self._read_large()
                entry = Entry(self)
                entries.append(entry)
                try:
                    found.append((entry, decode(data)))
                except msgspec.DecodeError as error:
                    log.error("child %d sent what cannot be read: %s", self.slot, error)
                    entry.done = True
        except BlockingIOError:
            self.consume()  # all that is there has been seen
        return found

    def consume(self) -> int:
        """Consumes the packets that are done, up to the first that is not; returns how many."""
        count = 0
        entries, recv = self._entries, self.sock.recv
        while entries and entries[0].done:
            recv(1, wire.NOW)
            entries.popleft()
            count += 1
        return count

    def _read_large(self) -> bytes:
        """Returns the packet that was just peeked at as one byte, from the memfd that travels with it."""
        offset = self.sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset - len(wire.MEMFD))
        return wire.receive(self.sock, _PEEK)
