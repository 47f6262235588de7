"""What a child had in hand that died waiting. Here the children are real processes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from dispatcher_rig import Rig, message, wait_for

from engine.app import wire
from engine.contract.transport import Ack
from engine.runtime import board as words
from engine.runtime.board import Board
from engine.runtime.dispatcher.crew import Crew, sleeps_in_receive
from engine.runtime.dispatcher.handout import Held
from engine.runtime.dispatcher.search import Search


class Reader:
    """A process that waits for a packet, and does ``then`` when it has one, before the board knows of it."""

    def __init__(self, rig: Rig, index: int, then: Callable[[], None]) -> None:
        self.rig = rig
        self.child = rig.children[index]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                packet = wire.decode(wire.receive(rig.inlet))
                then()
                self.child.begin(packet)
                self.child.end(packet)
                while True:
                    packet = wire.decode(wire.receive(rig.inlet))
                    self.child.begin(packet)
                    self.child.end(packet)
            finally:
                os._exit(0)
        self.child.slot[words.OWNER] = self.pid
        wait_for(lambda: sleeps_in_receive(self.pid), "the reader to sleep")
        self.child.ready()

    def bury(self) -> None:
        """Does what the supervisor does when the child is dead."""
        os.waitpid(self.pid, 0)
        self.pid = 0
        self.child.die(None)

    def kill(self) -> None:
        """Ends it."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture
def readers() -> Iterator[list[Reader]]:
    """Collects readers, and ends them."""
    found: list[Reader] = []
    yield found
    for reader in found:
        reader.kill()


def test_a_packet_that_died_with_its_reader_is_handed_out_again(rig: Rig, readers: list[Reader]) -> None:
    readers.append(Reader(rig, 0, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    rig.publish(message("a"))
    readers[0].bury()
    rig.logged("taken by a child that died before it started it")
    readers.append(Reader(rig, 1, lambda: None))
    assert rig.wait_state("a", "SUCCESS").deliveries == 1
    wait_for(lambda: rig.unsettled_bytes() == 0, "the death to be consumed")


def test_what_lies_in_the_hand_off_was_not_taken(rig: Rig, readers: list[Reader]) -> None:
    readers.append(Reader(rig, 0, lambda: None))
    os.kill(readers[0].pid, signal.SIGSTOP)
    # Woken by the signal, it would still take a packet that came before it was scheduled.
    wait_for(lambda: _is_stopped(readers[0].pid), "the reader to stand still")
    rig.publish(message("a"))
    rig.wait_place("a", "claimed")
    os.kill(readers[0].pid, signal.SIGKILL)
    readers[0].bury()
    readers.append(Reader(rig, 1, lambda: None))
    rig.wait_state("a", "SUCCESS")
    assert "died before it started it" not in rig.log


def test_the_verdict_waits_for_a_child_that_may_have_the_packet(
    make_rig: Callable[..., Rig], readers: list[Reader]
) -> None:
    """One child dies waiting while another has taken the only packet, and is stopped before it says so."""
    rig = make_rig(slots=3).start()
    slow = Reader(rig, 0, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    readers.append(slow)
    rig.publish(message("a"))
    wait_for(lambda: _is_stopped(slow.pid), "the slow one to have taken it")
    dead = Reader(rig, 1, lambda: None)
    readers.append(dead)
    os.kill(dead.pid, signal.SIGKILL)
    dead.bury()
    assert rig.take(timeout=0.3) is None
    assert rig.unsettled_bytes(1) > 0
    os.kill(slow.pid, signal.SIGCONT)
    rig.wait_state("a", "SUCCESS")
    wait_for(lambda: rig.unsettled_bytes(1) == 0, "the death to be consumed")
    assert "died before it started it" not in rig.log
    settled = [one for (batch,) in rig.served.called("settle") for one in batch]
    assert len(settled) == 1


def test_a_new_dispatcher_waits_for_such_a_child_before_it_gives_anything_back(rig: Rig, readers: list[Reader]) -> None:
    slow = Reader(rig, 0, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    readers.append(slow)
    rig.publish(message("a"))
    wait_for(lambda: _is_stopped(slow.pid), "the slow one to have taken it")
    rig.kill()
    rig.start()
    assert rig.take(timeout=0.3) is None
    assert len(rig.served.called("reconcile")) == 1
    os.kill(slow.pid, signal.SIGCONT)
    rig.wait_state("a", "SUCCESS")
    rig.compared(2)
    rig.wait_place("a", None)


def test_a_busy_pool_whose_idle_children_are_killed_loses_nothing(rig: Rig, readers: list[Reader]) -> None:
    """Readers die with packets in hand, again and again: every task runs once."""
    count = 40
    rig.publish(*[message(f"m{n}") for n in range(count)])
    for _ in range(20):
        reader = Reader(rig, 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
        readers.append(reader)
        reader.bury()
    readers.append(Reader(rig, 1, lambda: None))
    for n in range(count):
        assert rig.wait_state(f"m{n}", "SUCCESS").deliveries == 1
    settled = [one for (batch,) in rig.served.called("settle") for one in batch]
    assert len([one for one in settled if isinstance(one, Ack)]) == count


def test_a_thread_that_waits_for_a_lock_is_not_taken_for_a_reader() -> None:
    """With several threads the kernel says where the main one sleeps."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        import threading

        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        theirs.recv(1)
        threading.Lock().acquire()
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
        os._exit(0)
    try:
        wait_for(lambda: sleeps_in_receive(pid), "it to sleep in receive")
        ours.send(b"x")
        wait_for(lambda: not sleeps_in_receive(pid), "it to sleep elsewhere")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ours.close()
        theirs.close()


def test_a_process_that_is_gone_holds_nothing() -> None:
    assert sleeps_in_receive(2**22 + 1)


def test_the_board_is_looked_at_before_the_sockets() -> None:
    """A run whose outcome comes between the two looks is found: in the socket, if no longer on the board."""
    board = Board(1)
    slot = board.slot(0)
    inflight = {7: Held(None, None, None, 0.0), 8: Held(None, None, None, 0.0)}  # type: ignore[arg-type]
    search = Search(Crew(board), inflight)
    assert search.decided()
    slot.begin(7, b"c", b"id", 0)

    def read_sockets() -> None:
        slot.wait()
        del inflight[8]

    assert search.conclude(read_sockets) == []
    assert search.conclude(lambda: None) == [7]
    os.close(board.bell)


def _is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"
