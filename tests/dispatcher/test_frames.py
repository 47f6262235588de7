"""Who writes into a slot's pair, or reads from it, may be killed at any moment: what it holds is whole all the same."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count

import pytest

from engine.app import wire
from engine.contract import Record
from engine.runtime.dispatcher.journal import Entry, Journal

KILLS = 30
DEATH = wire.Death(0, 1, 1, 1, 7, "a", b"claim", "died", "SIGKILL")
SIZES = (10, 10, 10, 500, 5_000, 30_000, 32_600, 40_000, 150_000)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Returns a slot's outcome pair."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        yield ours, theirs


def killed_soon(work: Callable[[], None], ready: Callable[[], bool]) -> None:
    """Runs this in a process that is killed some time after it is ready."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(70)
    try:
        deadline = time.monotonic() + 10
        while not ready():
            assert time.monotonic() < deadline
        pause = time.monotonic() + random.uniform(0, 0.003)
        while time.monotonic() < pause:
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "it ended by itself"


def stored(number: int) -> wire.Stored:
    """Returns a packet of one of the sizes."""
    return wire.Stored(number, Record("a", "X", 1.0, 0, 1, b"x" * SIZES[number % len(SIZES)]))


def check(packets: Sequence[wire.Stored], first: int) -> None:
    """Are these those that were sent, from this number on?"""
    assert packets == [stored(number) for number in range(first, first + len(packets))]


def write(sock: socket.socket) -> None:
    """Writes packets of all sizes until it is killed."""
    for number in count():
        wire.post(sock, wire.encode(stored(number)))


def read_and_consume(sock: socket.socket) -> None:
    """Reads, and consumes a part of it, until it is killed."""
    journal = Journal(0, sock)
    waiting: deque[Entry] = deque()
    while True:
        waiting += [entry for entry, _ in journal.read()]
        for _ in range(random.randint(0, 20)):
            if waiting:
                waiting.popleft().done = True
        journal.consume()


def can_read(sock: socket.socket) -> bool:
    """Is something in it?"""
    try:
        return bool(sock.recv(1, wire.PEEK | wire.NOW))
    except BlockingIOError:
        return False


def test_a_writer_that_is_killed_has_sent_whole_packets(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = pair
    for _ in range(KILLS):
        killed_soon(lambda: write(theirs), lambda: can_read(ours))
        with suppress(BlockingIOError):  # the writer may have left no room
            wire.post(theirs, wire.encode(DEATH), wire.NOW)
        journal = Journal(0, ours)
        found = journal.read()
        packets = [packet for _, packet in found if packet != DEATH]
        assert len(packets) >= len(found) - 1
        check(packets, 0)
        for entry, _ in found:
            entry.done = True
        assert journal.consume() == len(found)
        assert not can_read(ours)
    assert not caplog.records, "nothing was unreadable"


def test_a_reader_that_is_killed_has_consumed_whole_packets(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = pair
    sent, reads = 0, 0
    for _ in range(KILLS):
        with suppress(BlockingIOError):
            while True:
                wire.post(theirs, wire.encode(stored(sent)), wire.NOW)
                sent += 1
        killed_soon(lambda: read_and_consume(ours), lambda: True)
        found = Journal(0, ours).read()
        reads += not found
        check([packet for _, packet in found], sent - len(found))
    assert reads < KILLS, "it was killed in time"
    assert not caplog.records, "nothing was unreadable"


@pytest.mark.parametrize("junk", [b"x", b"what is no packet"])
def test_who_waits_for_an_answer_says_that_it_is_none(junk: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.send(junk)
        with pytest.raises(OSError, match="no packet"):
            wire.collect(theirs)
