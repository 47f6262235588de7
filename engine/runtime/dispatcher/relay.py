"""Runs in the dispatcher: who asks for the broker - children over their slots, clients over their connections.

Main lane. Calls go to the publish lane, answers come back here. Nobody is waited for: a child reads the answer it asked
for, so its socket has room for it, and a client that does not read is dropped.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import time

import msgspec

from engine.app import wire
from engine.runtime.dispatcher.gathering import Gathering
from engine.runtime.dispatcher.journal import Entry
from engine.runtime.dispatcher.publisher import Ask, Publisher

log = logging.getLogger("engine.dispatcher")

IN_FLIGHT_MOST = 64 * 2**20
"""Bytes of one client's unanswered calls above which it is read no further, until some are answered."""

CLIENTS_MOST = 256
"""Clients' connections that are kept at most: a descriptor that has no room in this process is lost on its way."""


class ChildCaller:
    """A child that asked over its slot's socket. Its request stays in the journal until it is answered."""

    __slots__ = ("again", "entry", "gone", "producer")

    def __init__(self, entry: Entry, producer: str, *, again: bool) -> None:
        self.entry = entry
        self.producer = producer
        self.again = again
        self.gone = False

    def answer(self, reply: wire.Reply) -> None:
        """Answers, unless the child has died meanwhile."""
        journal = self.entry.journal
        if not self.gone:
            try:
                wire.post(journal.sock, wire.encode(reply), wire.NOW)
            except OSError as error:
                log.error("child %d gets no answer to its call: %s", journal.slot, error)
        self.forget()

    def forget(self) -> None:
        """Counts the request as answered: nobody waits for it any more."""
        self.gone = True
        self.entry.done = True
        self.entry.journal.consume()


class Client:
    """A client's connection. Main lane, but for `gone` and `producer`."""

    def __init__(self, sock: socket.socket, number: int, worker: str) -> None:
        self.sock = sock
        self.producer = f"{worker}.client.{number}"
        self.gone = False
        self.in_flight = 0
        self.full = False

    def answer(self, reply: wire.Reply) -> None:
        """Answers; a client that does not read is dropped."""
        if self.gone:
            return
        try:
            wire.send(self.sock, wire.encode(reply), wire.NOW)
        except OSError:
            self.gone = True


class _ClientCall:
    """One call of a client, which counts against its quota until it is answered."""

    __slots__ = ("_clients", "_size", "client")

    def __init__(self, clients: Clients, client: Client, size: int) -> None:
        self._clients = clients
        self._size = size
        self.client = client

    again = False

    @property
    def producer(self) -> str:
        return self.client.producer

    @property
    def gone(self) -> bool:
        return self.client.gone

    def answer(self, reply: wire.Reply) -> None:
        self.client.in_flight -= self._size
        self.client.answer(reply)
        self._clients.answered(self.client)


class Clients:
    """All clients' connections."""

    def __init__(self, publisher: Publisher, poller: select.epoll, worker: str, gathering: Gathering) -> None:
        self._publisher = publisher
        self._gathering = gathering
        self._poller = poller
        self._worker = worker
        self._clients: dict[int, Client] = {}
        self._count = 0
        self._told = False

    def __contains__(self, fd: object) -> bool:
        return fd in self._clients

    def add(self, fd: int) -> None:
        """Takes a connection from the supervisor, if it is of this user's (or root's) and there are not too many."""
        sock = socket.socket(fileno=fd)
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.getuid()):
            log.warning("a client of uid %d was refused", uid)
            sock.close()
            return
        if len(self._clients) >= CLIENTS_MOST:
            self._tell_full()
            sock.close()
            return
        self._count += 1
        self._clients[sock.fileno()] = Client(sock, self._count, self._worker)
        self._poller.register(sock.fileno(), select.EPOLLIN)

    def read(self, fd: int, events: int) -> None:
        """Reads what a client asked, and passes it on."""
        client = self._clients[fd]
        if client.full and events & (select.EPOLLHUP | select.EPOLLERR):
            client.gone = True
        asks: list[Ask] = []
        while not client.gone and not self._stop_reading(client):
            try:
                data = wire.receive(client.sock, wire.NOW)
                request = wire.decode(data) if data else None
            except BlockingIOError:
                break
            except (OSError, msgspec.DecodeError):
                request = None
            if not isinstance(request, wire.Request):
                client.gone = True
                break
            client.in_flight += len(data)
            asks.append(Ask(_ClientCall(self, client, len(data)), request))
        if asks:
            self._gathering.called(time.monotonic())
            self._publisher.ask(asks)
        self._drop_if_gone(client)

    def answered(self, client: Client) -> None:
        """Hears that a call was answered: the client may have room again, or be gone."""
        if client.full and client.in_flight <= IN_FLIGHT_MOST and not client.gone:
            client.full = False
            self._poller.modify(client.sock.fileno(), select.EPOLLIN)
        self._drop_if_gone(client)

    def close(self) -> None:
        """Hangs up on all clients."""
        for client in list(self._clients.values()):
            client.gone = True
            self._drop_if_gone(client)

    def _tell_full(self) -> None:
        if not self._told:
            self._told = True
            log.error(
                "%d clients are connected, further ones are refused (said once): let processes share an Engine, or "
                "close those that are not used",
                CLIENTS_MOST,
            )

    def _stop_reading(self, client: Client) -> bool:
        if client.in_flight > IN_FLIGHT_MOST and not client.full:
            client.full = True
            self._poller.modify(client.sock.fileno(), 0)
        return client.full

    def _drop_if_gone(self, client: Client) -> None:
        fd = client.sock.fileno()
        if client.gone and self._clients.pop(fd, None) is not None:
            self._poller.unregister(fd)
            client.sock.close()


class Children:
    """The calls of children that have not been answered, by slot."""

    def __init__(self, publisher: Publisher, worker: str, gathering: Gathering) -> None:
        self._publisher = publisher
        self._gathering = gathering
        self._worker = worker
        self._open: dict[int, list[ChildCaller]] = {}

    def ask(self, slot: int, entry: Entry, request: wire.Request, *, again: bool) -> None:
        """Passes a child's call on. ``again``: a dispatcher that died may have done so too."""
        caller = ChildCaller(entry, f"{self._worker}.child.{request.spawn}", again=again)
        still = [one for one in self._open.get(slot, ()) if not one.gone]
        self._open[slot] = [*still, caller]
        self._gathering.called(time.monotonic())
        self._publisher.ask([Ask(caller, request)])

    def died(self, slot: int) -> None:
        """Forgets the calls of a child that is dead."""
        for caller in self._open.pop(slot, ()):
            if not caller.gone:
                caller.forget()
