"""One connection: bytes out, replies in. hiredis packs and parses; nothing is ever repeated here.

- A reply is waited for ``timeout`` seconds at most, so that a server that hangs is noticed. An idle connection whose
  other end has vanished (half open) is noticed by the kernel's probes within 9 s.
- After an error in the middle of a command nobody knows what the next bytes belong to: the connection is closed.
"""

from __future__ import annotations

import contextlib
import select
import socket
from typing import Any, TypeAlias

import hiredis

from engine_redis.address import Address

Argument: TypeAlias = bytes | str | int | float
Reply: TypeAlias = Any
"""bytes, int, None, a list of replies, or a `hiredis.ReplyError`."""

_NOTHING = object()
_READ = 64 * 1024
_USER_TIMEOUT_MS = 8000


class _Socket(socket.socket):
    """Closes itself when nobody has it any more: a consumer whose connection was lost is dropped, not closed."""

    def __del__(self) -> None:
        self.close()


class Connection:
    """A socket and its parser. Belongs to one thread; `close` may be called by any."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._buffer = bytearray(_READ)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def fileno(self) -> int:
        """Returns the descriptor to poll."""
        return self._sock.fileno()

    def send(self, command: tuple[Argument, ...]) -> None:
        """Sends a command. Raises OSError."""
        self._sock.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # any number of them

    def read(self) -> Reply:
        """Returns the next reply, waiting for it. Raises OSError; ProtocolError for what is no Redis."""
        reply = self._reader.gets()
        while reply is _NOTHING:
            self._receive()
            reply = self._reader.gets()
        return reply

    def read_some(self) -> list[Reply]:
        """Returns the replies that have come; waits only for more of what poll says is there."""
        self._receive()
        replies = []
        while (reply := self._reader.gets()) is not _NOTHING:
            replies.append(reply)
        return replies

    def call(self, *command: Argument) -> Reply:
        """Sends a command and returns its reply."""
        self.send(command)
        return self.read()

    def is_stale(self) -> bool:
        """Has the other end closed it (or sent what nobody asked for)? Of a connection that waits for nothing."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Closes it; more than once is harmless."""
        with contextlib.suppress(OSError):
            self._sock.close()

    def _receive(self) -> None:
        count = self._sock.recv_into(self._buffer)
        if not count:
            raise ConnectionError("it closed the connection")
        self._reader.feed(self._buffer, 0, count)  # type: ignore[arg-type]  # any buffer will do


def dial(address: Address, host: str, port: int) -> Connection:
    """Opens a connection that is not yet authenticated. Raises OSError (ssl errors are)."""
    if address.kind == "unix":
        sock: socket.socket = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(address.timeout)
        sock.connect(host)
        return Connection(sock)
    sock = _Socket(fileno=socket.create_connection((host, port), address.timeout).detach())
    sock.settimeout(address.timeout)
    _tune(sock)
    if address.tls:
        from engine_redis import tls  # late: see there

        sock = tls.wrapped(sock, address, host)
    return Connection(sock)


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS),
    ):
        if hasattr(socket, option):  # a client may run elsewhere than on Linux
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
