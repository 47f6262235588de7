"""Runs in the dispatcher: a slot's outcome socket, read as a journal.

Surprising facts this rests on:

- With SO_PEEK_OFF set, MSG_PEEK goes forward from byte to byte while all of them stay in the socket. A dispatcher
  that dies has consumed nothing that was not settled: the next one sets the offset to 0 and sees it again.
- Consuming moves the offset back by as much, so peeking goes on where it was.
- Only what is first can be consumed. What is done behind one that is not waits for it.
- Each frame is one piece in the kernel (see `engine.app.wire`), and a ``recv`` takes whole pieces but for its last: a
  dispatcher that is killed in it has consumed whole frames. So no call may end within one.
- ``recv`` without a control buffer is much cheaper than ``recvmsg``, and the kernel closes the descriptors that came
  with what is read so. A large packet (one byte, ``MEMFD``) is therefore peeked at again, with ``recvmsg``.
- Whatever holds the descriptor can write into it, a task's library that mixes its descriptors up, too. What is no
  frame is skipped, up to the next that is: behind it lie the outcomes of other tasks, and the child's death.
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
_HEAD = wire.HEAD.size
_buffer = bytearray(wire.BUFFER + _HEAD)  # of all journals: nothing stays in it from one call to the next
_view = memoryview(_buffer)


class Entry:
    """One packet in a journal: not consumed before it is done."""

    __slots__ = ("done", "journal", "size")

    def __init__(self, journal: Journal, size: int) -> None:
        self.journal = journal
        self.size = size
        """Bytes in the socket, with its head."""
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
        while self._look(found):
            pass
        self.consume()
        return found

    def consume(self) -> int:
        """Consumes the packets that are done, up to the first that is not; returns how many."""
        count = size = 0
        entries = self._entries
        while entries and entries[0].done:
            entry = entries.popleft()
            if size + entry.size > len(_buffer):
                self._discard(size)
                size = 0
            size += entry.size
            count += 1
        self._discard(size)
        return count

    def _look(self, found: list[tuple[Entry, Any]]) -> bool:
        """Adds the packets that one look brings; returns whether there may be more."""
        try:
            size = self.sock.recv_into(_buffer, wire.BUFFER, _PEEK)
        except BlockingIOError:
            return False
        more = size == wire.BUFFER  # if not, it has all; for what comes now, there will be another event
        unpack, decode, add, enter, at = wire.HEAD.unpack_from, wire.decode, found.append, self._entries.append, 0
        while at < size:
            begin, length = unpack(_view, at)  # which may end behind `size`, and then is of no use
            start = at + _HEAD
            end = start + length
            if begin == wire.BEGIN and end <= size:
                data: bytes | memoryview = _view[start:end]
                if length == 1 and data == wire.MEMFD:
                    self._step_back(size - at)
                    size, more = end, True
                    data = wire.receive(self.sock, _PEEK, end - at)
                enter(entry := Entry(self, end - at))
                try:
                    add((entry, decode(data)))
                except msgspec.DecodeError as error:
                    log.error("child %d sent what cannot be read: %s", self.slot, error)
                    entry.done = True
            elif at and more:
                self._step_back(size - at)  # the buffer has ended within a frame
                break
            else:
                end = self._skip(at, size)
            at = end
        return more

    def _skip(self, at: int, size: int) -> int:
        """Counts what is no frame as done; returns where it ends."""
        found = _buffer.find(wire.BEGIN, at + 1, size)
        end = size if found < 0 else found
        log.error("child %d sent what cannot be read: %d bytes that are no packet", self.slot, end - at)
        entry = Entry(self, end - at)
        entry.done = True
        self._entries.append(entry)
        return end

    def _step_back(self, size: int) -> None:
        """Has the next look begin so many bytes before the end of the last."""
        offset = self.sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset - size)

    def _discard(self, size: int) -> None:
        while size:
            size -= self.sock.recv_into(_buffer, size, wire.NOW)  # ends behind descriptors
