"""The parts of the dispatcher that need no process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import socket
import sys
import termios
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast
from unittest.mock import MagicMock

import msgspec
import pytest
from dispatcher_rig import wait_for

from engine.app import wire
from engine.contract import Batch, Envelope, Record
from engine.runtime.board import Board
from engine.runtime.dispatcher.gathering import LONGEST, QUIET, Gathering
from engine.runtime.dispatcher.journal import Journal
from engine.runtime.dispatcher.lanes import Backoff, Inbox, Mailbox, Outage
from engine.runtime.dispatcher.link import Link
from engine.runtime.dispatcher.prefetch import Prefetch
from engine.runtime.dispatcher.publish import PublishLane
from engine.runtime.dispatcher.publisher import Ask, Publisher
from engine.runtime.dispatcher.rates import Rates
from engine.runtime.dispatcher.registry import Registry
from engine.runtime.dispatcher.waits import Waits


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Returns a slot's outcome pair."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        yield ours, theirs


def stored(number: int, size: int = 10) -> wire.Stored:
    """Returns a packet that can be told from others."""
    return wire.Stored(number, Record("a", "X", 1.0, 0, 1, b"x" * size))


class TestJournal:
    def test_nothing_is_consumed_before_it_is_done(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        journal = Journal(0, ours)
        for number in range(3):
            wire.post(theirs, wire.encode(stored(number)))
        found = journal.read()
        assert [packet.sequence for _, packet in found] == [0, 1, 2]
        found[1][0].done = True
        assert journal.consume() == 0
        found[0][0].done = True
        assert journal.consume() == 2
        assert len(journal) == 1
        assert journal.read() == []

    def test_who_pretends_that_a_descriptor_follows_sent_what_cannot_be_read(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        theirs.send(wire.HEAD.pack(wire.BEGIN, 1) + wire.MEMFD)
        wire.post(theirs, wire.encode(stored(7)))
        journal = Journal(0, ours)
        assert [packet.sequence for _, packet in journal.read()] == [7]

    def test_another_reader_of_the_socket_sees_what_was_not_consumed(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        journal = Journal(0, ours)
        for number in range(3):
            wire.post(theirs, wire.encode(stored(number)))
        entries = [entry for entry, _ in journal.read()]
        entries[0].done = True
        journal.consume()
        assert [packet.sequence for _, packet in Journal(0, ours).read()] == [1, 2]

    def test_large_packets_are_read_whole_and_leave_no_descriptor(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        journal = Journal(0, ours)
        for number in range(4):
            wire.post(theirs, wire.encode(stored(number, 1_000_000 if number % 2 else 10)))
            entries = journal.read()
            assert [(packet.sequence, len(packet.record.body)) for _, packet in entries] == [
                (number, 1_000_000 if number % 2 else 10)
            ]
            entries[0][0].done = True
            assert journal.consume() == 1
        assert not [fd for fd in os.listdir("/proc/self/fd") if "engine-packet" in link_of(fd)]

    def test_a_large_packet_that_cannot_be_opened_stays_where_it_is(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        wire.post(theirs, wire.encode(stored(1, 1_000_000)))
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
        try:
            with pytest.raises(OSError, match="too many open files"):
                Journal(0, ours).read()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert [packet.sequence for _, packet in Journal(0, ours).read()] == [1]

    def test_large_packets_in_a_row_are_peeked_at_in_order(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        journal = Journal(0, ours)
        for number in range(6):
            wire.post(theirs, wire.encode(stored(number, 200_000 if number in (1, 2, 4) else 10)))
        assert [packet.sequence for _, packet in journal.read()] == [0, 1, 2, 3, 4, 5]

    def test_what_one_look_does_not_hold_is_read_with_the_next(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        journal = Journal(0, ours)
        sizes = [20_001, 10, 32_000, 7, 31_013, 32_700, 5, 30_011]
        assert sum(sizes) > wire.BUFFER
        for number, size in enumerate(sizes):
            wire.post(theirs, wire.encode(stored(number, size)), wire.NOW)
        found = journal.read()
        assert [len(packet.record.body) for _, packet in found] == sizes
        for entry, _ in found:
            entry.done = True
        assert journal.consume() == len(sizes)
        assert pending(ours) == 0
        wire.post(theirs, wire.encode(stored(8)))
        assert [packet.sequence for _, packet in journal.read()] == [8]

    @pytest.mark.parametrize(
        "junk", [b"x", b"hello, world", wire.BEGIN, wire.HEAD.pack(wire.BEGIN, 10**9), wire.HEAD.pack(wire.BEGIN, 3)]
    )
    def test_what_is_no_frame_is_skipped(self, pair: tuple[socket.socket, socket.socket], junk: bytes) -> None:
        ours, theirs = pair
        journal = Journal(0, ours)
        wire.post(theirs, wire.encode(stored(0)))
        theirs.send(junk)
        assert [packet.sequence for _, packet in journal.read()] == [0]
        wire.post(theirs, wire.encode(stored(1)))
        theirs.send(junk)
        for number in (2, 3):
            wire.post(theirs, wire.encode(stored(number)))
        told = [packet.sequence for _, packet in journal.read()]
        assert told in ([1, 2, 3], [1, 3]), "at most the frame behind it is lost"
        for entry in journal._entries:
            entry.done = True
        journal.consume()
        assert pending(ours) == 0

    def test_a_frame_is_sent_whole_or_not_at_all(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        largest = wire.FRAME_MAX - len(wire.HEAD.pack(wire.BEGIN, 0))
        sent = sum(size * posted(theirs, b"x" * size) for size in (largest, 20_000, 8_000, 3_000, 600, 1))
        assert sent > 5 * largest
        heads = 0
        while pending(ours):
            begin, size = wire.HEAD.unpack(ours.recv(wire.HEAD.size))
            assert begin == wire.BEGIN
            assert ours.recv(size, socket.MSG_WAITALL) == b"x" * size
            heads += size
        assert heads == sent


def posted(sock: socket.socket, data: bytes) -> int:
    """Posts a packet until there is no more room; returns how often."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            wire.post(sock, data, wire.NOW)
            count += 1
    return count


def pending(sock: socket.socket) -> int:
    """Returns how many bytes lie in a socket."""
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def link_of(fd: str) -> str:
    """Returns what a descriptor of this process leads to."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


class TestPrefetch:
    def test_one_for_each_idle_child_at_least(self) -> None:
        assert Prefetch(1000).target(idle=4, now=100.0) == 4

    def test_nothing_while_all_children_are_busy_with_long_tasks(self) -> None:
        prefetch = Prefetch(1000)
        prefetch.ended(3, 100.0)
        assert prefetch.target(idle=0, now=101.0) == 0

    def test_what_ended_in_the_last_100_ms(self) -> None:
        prefetch = Prefetch(1000)
        for step in range(100):
            prefetch.ended(2, 100.0 + step * 0.01)
        assert prefetch.target(idle=1, now=100.99) == 20
        assert prefetch.target(idle=1, now=101.045) in (10, 12)
        assert prefetch.target(idle=1, now=101.2) == 1

    def test_it_doubles_with_each_round_trip(self) -> None:
        prefetch = Prefetch(1000)
        now, targets = 100.0, []
        for _ in range(12):
            targets.append(prefetch.target(idle=2, now=now))
            now += 0.001
            prefetch.ended(targets[-1], now)
        assert targets[:4] == [2, 2, 4, 8]
        assert targets[-1] == 1000

    def test_never_more_than_the_most(self) -> None:
        prefetch = Prefetch(50)
        prefetch.ended(10_000, 100.0)
        assert prefetch.target(idle=2, now=100.0) == 50

    def test_it_can_be_pinned(self) -> None:
        prefetch = Prefetch(1000, pinned=7)
        prefetch.ended(500, 100.0)
        assert prefetch.target(idle=0, now=100.0) == 7


class TestRates:
    def test_turns_are_spread_and_kept_by_id(self) -> None:
        rates = Rates()
        assert rates.turn("t", "a", 1.0, 100.0) is None
        assert rates.turn("t", "b", 1.0, 100.0) == 101.0
        assert rates.turn("t", "c", 1.0, 100.0) == 102.0
        assert rates.turn("t", "b", 1.0, 100.5) == 101.0
        assert rates.turn("t", "b", 1.0, 101.0) is None
        assert rates.turn("t", "c", 1.0, 102.1) is None

    def test_tasks_do_not_share_a_rate(self) -> None:
        rates = Rates()
        assert rates.turn("t", "a", 0.001, 100.0) is None
        assert rates.turn("u", "b", 0.001, 100.0) is None

    def test_an_unused_rate_saves_nothing_up(self) -> None:
        rates = Rates()
        assert rates.turn("t", "a", 1.0, 100.0) is None
        assert rates.turn("t", "b", 1.0, 200.0) is None
        assert rates.turn("t", "c", 1.0, 200.0) == 201.0

    def test_a_turn_that_nobody_came_for_is_forgotten(self) -> None:
        rates = Rates()
        rates.turn("t", "a", 1.0, 100.0)
        rates.turn("t", "b", 1.0, 100.0)
        rates.turn("u", "x", 1.0, 300.0)
        assert set(rates._lines) == {"u"}


class TestLanes:
    def test_a_mailbox_makes_the_calls_of_a_thread_in_their_order(self) -> None:
        mailbox, seen = Mailbox(), list[int]()
        for number in range(5):
            mailbox.post(seen.append, number)
        assert mailbox.run() == 5
        assert seen == [0, 1, 2, 3, 4]
        assert mailbox.run() == 0
        mailbox.post(seen.append, 9)
        assert mailbox.run() == 1
        os.close(mailbox.fileno())

    def test_a_mailbox_that_was_rung_twice_falls_silent(self) -> None:
        mailbox, seen = Mailbox(), list[int]()
        mailbox.post(seen.append, 1)
        assert mailbox.run() == 1
        os.eventfd_write(mailbox.fileno(), 1)
        assert select.select([mailbox.fileno()], [], [], 0)[0]
        assert mailbox.run() == 0
        assert not select.select([mailbox.fileno()], [], [], 0)[0]
        os.close(mailbox.fileno())

    def test_an_inbox_gives_all_that_is_there(self) -> None:
        inbox: Inbox[int] = Inbox()
        inbox.put([1, 2])
        inbox.put([3])
        assert inbox.take(0.0) == [1, 2, 3]
        assert inbox.take(0.0) == []

    def test_backoff_grows_to_a_cap_and_starts_anew(self) -> None:
        backoff = Backoff(first=0.1, most=1.0)
        pauses = [backoff.next() for _ in range(10)]
        assert all(0.05 <= pause <= 1.0 for pause in pauses)
        assert pauses[-1] >= 0.5
        backoff.reset()
        assert backoff.next() <= 0.1

    def test_an_outage_of_several_lanes_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        outage = Outage("broker")
        with caplog.at_level("INFO"):
            for _ in range(50):
                outage.failed("fetch", OSError("refused"))
                outage.failed("settle", OSError("refused"))
            outage.worked("fetch")
            assert outage.lasts
            outage.worked("settle")
            outage.worked("settle")
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_name_wins_over_another_tasks_alias() -> None:
    one, two = wire.TaskInfo("one", ["two", "uno"]), wire.TaskInfo("two")
    registry = Registry([one, two])
    assert registry.find("two") is two
    assert registry.find("uno") is one
    assert registry.find("three") is None
    assert "uno" in registry
    assert "three" not in registry


def test_the_publish_lane_shows_at_each_call_that_it_moves() -> None:
    """A slow broker is no reason to take it for stuck, however many calls are there at once."""
    seen: list[str] = []
    board = SimpleNamespace(stamp_lane=lambda index, working: seen.append("stamp") if working else None)
    transport = MagicMock(publish=lambda envelopes, batch: seen.append("publish"))
    caller = SimpleNamespace(producer="p", gone=False, again=False, answer=lambda reply: None)
    publisher = Publisher(Inbox(), "w", 1)
    link = cast(Link, MagicMock(transport=transport))
    lane = PublishLane(cast(Board, board), link, Mailbox(), publisher, lambda records, then: then())
    envelope = Envelope("a", b"{}", "q")
    args = msgspec.msgpack.encode([[envelope], None])
    publisher.ask([Ask(caller, wire.Request(1, number, "publish", args)) for number in range(3)])
    for number in range(3):
        publisher.send([envelope], lambda: None, Batch("p", number))
    lane.round()
    assert seen.count("publish") == 6
    assert "publish publish" not in " ".join(seen)


def test_what_a_slot_sends_has_a_producer_of_its_worker_alone() -> None:
    """The broker drops what it takes for a repetition: two workers must not be one producer to it."""
    workers = ["shop.eu-1-aa", "shop.eu-2-bb", "shop.us-1-cc", "shop"]
    batches = [Publisher(Inbox(), worker, 1).batch_of_slot(0, 7) for worker in workers]
    assert len(set(batches)) == len(workers)
    assert Publisher(Inbox(), workers[0], 2).batch_of_slot(0, 7) == batches[0], "another dispatcher's repetition"


class TestWaits:
    def test_a_wait_for_one_is_answered_when_it_is_there(self) -> None:
        store: dict[str, Record] = {}
        waits, answers = waits_on(store)
        waits.add("me", ["a"], 60.0)
        assert not answers
        store["a"] = Record("a", "SUCCESS", 1.0, 0, 1, b"{}", final=True)
        assert waits.wanted([*store.values(), Record("b", "SUCCESS", 1.0, 0, 1, b"{}", final=True)]) == ["a"]
        waits.look(["a"])
        waits.tick()
        assert answers == [("me", ["a"])]
        assert not len(waits)
        assert waits.wanted(store.values()) == []

    def test_what_is_not_final_answers_nothing(self) -> None:
        store = {"a": Record("a", "STARTED", 1.0, 0, 1, b"{}")}
        waits, answers = waits_on(store)
        waits.add("me", ["a"], 60.0)
        assert waits.wanted(store.values()) == []
        assert not answers

    def test_a_wait_that_is_over_is_answered_with_nothing(self) -> None:
        waits, answers = waits_on({})
        waits.add("me", ["a"], 0.0)
        assert answers == [("me", [])]

    def test_a_wait_for_many_gathers_what_comes_at_the_same_time(self) -> None:
        store = {"a": Record("a", "SUCCESS", 1.0, 0, 1, b"{}", final=True)}
        waits, answers = waits_on(store)
        waits.add("me", ["a", "b", "c"], 60.0)
        assert not answers
        store["b"] = Record("b", "SUCCESS", 1.0, 0, 1, b"{}", final=True)
        waits.look(["b"])
        wait_for(lambda: waits.tick() and answers, "the answer")
        assert [(who, sorted(ids)) for who, ids in answers] == [("me", ["a", "b"])]

    def test_several_may_wait_for_the_same(self) -> None:
        store: dict[str, Record] = {}
        waits, answers = waits_on(store)
        waits.add("me", ["a"], 60.0)
        waits.add("you", ["a", "b"], 0.0)
        waits.add("he", ["a"], 60.0)
        store["a"] = Record("a", "SUCCESS", 1.0, 0, 1, b"{}", final=True)
        waits.look(["a"])
        waits.tick()
        assert sorted(answers) == [("he", ["a"]), ("me", ["a"]), ("you", [])]

    def test_who_is_gone_gets_no_answer(self) -> None:
        waits, answers = waits_on({})
        waits.add("gone", ["a"], 60.0)
        assert waits.tick() > 0
        assert not answers
        assert not len(waits)


def waits_on(store: dict[str, Record]) -> tuple[Waits[str], list[tuple[str, list[str]]]]:
    """Returns a table of waits on these records, and the list that its answers go to."""
    answers: list[tuple[str, list[str]]] = []
    waits: Waits[str] = Waits(
        lambda ids: {id: store[id] for id in ids if id in store},
        lambda who, found: answers.append((who, [record.id for record in found])),
        lambda who: who == "gone",
    )
    return waits, answers


class TestGathering:
    @pytest.mark.parametrize(
        ("rate", "in_socket", "pause"),
        [
            (0, 100, 0.0),  # nothing to expect
            (150, 100, 0.0),  # too little to wait for
            (200, 100, LONGEST),
            (3200, 100, LONGEST),
            (6400, 100, LONGEST / 2),  # by then there is enough
            (6400, 0, 0.0),  # children wait
        ],
    )
    def test_it_waits_only_while_outcomes_come_fast_and_children_have_work(
        self, rate: int, in_socket: int, pause: float
    ) -> None:
        assert Gathering().pause(rate, in_socket, 1000.0) == pytest.approx(pause)

    def test_it_does_not_wait_while_somebody_calls(self) -> None:
        gathering = Gathering()
        gathering.called(1000.0)
        assert gathering.pause(3200, 100, 1000.0 + QUIET / 2) == 0.0
        assert gathering.pause(3200, 100, 1000.0 + 2 * QUIET) == LONGEST
