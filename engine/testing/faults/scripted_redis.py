"""A Redis that answers errors to order: for tests of tasks that use Redis, and of the engine.

    with ScriptedRedis(behind=6379) as redis:
        redis.script("GET", error("LOADING Redis is loading the dataset in memory"), times=3)
        client = ...connect to redis.url...

Without ``behind`` there is no Redis at all: what is not in the script is answered with ``+OK``, a PING with ``+PONG``.
"""

from __future__ import annotations

import contextlib
import threading
from typing import BinaryIO

from engine.testing.faults.scripted import Answer, Link, ScriptedServer

ERRORS = {
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "READONLY": "READONLY You can't write against a read only replica.",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS": "NOREPLICAS Not enough good replicas to write.",
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "NOAUTH": "NOAUTH Authentication required.",
    "WRONGPASS": "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM": "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOSCRIPT": "NOSCRIPT No matching script. Please use EVAL.",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLIENTS": "ERR max number of clients reached",
}
"""What servers say, by the code of the error. MOVED and ASK name a node: write them out."""


def error(text: str) -> Answer:
    """An error reply. ``text``: a key of `ERRORS`, or the whole of it."""
    return Answer(f"-{ERRORS.get(text, text)}\r\n".encode())


GARBAGE = Answer(b"HTTP/1.1 400 Bad Request\r\n\r\n")
"""Bytes that are no reply of Redis."""
HALF_A_REPLY = Answer(b"$1000\r\nhalf of", then="close")
"""The connection ends in the middle of a reply."""


class ScriptedRedis(ScriptedServer):
    """See above. The words of a line are those of a command: "GET", "EVALSHA 3f2a...", "CLIENT SETNAME"."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def serve(self, link: Link, server: Link | None) -> None:
        """See `ScriptedServer.serve`."""
        if server is not None:
            threading.Thread(target=_pass_back, args=(server, link), daemon=True).start()
        with link.sock.makefile("rb") as stream:
            while command := read_command(stream):
                answer = self.next_line(*(word.decode(errors="replace") for word in command[:3]))
                if answer is None or answer.right:
                    link.ends_next = answer is not None and server is not None
                    self._answer_rightly(link, server, command)
                if answer is not None and not link.ends_next and not link.say(answer):
                    return

    def _answer_rightly(self, link: Link, server: Link | None, command: list[bytes]) -> None:
        if server is not None:
            server.send(packed(command))
        else:
            link.send(b"+PONG\r\n" if command[0].upper() == b"PING" else b"+OK\r\n")


def read_command(stream: BinaryIO) -> list[bytes]:
    """Reads the next command, of either form; [] at the end. Raises OSError for what is none."""
    while (line := stream.readline()) == b"\r\n":
        pass
    if not line.startswith(b"*"):
        return line.split()
    try:
        return [_bulk(stream) for _ in range(int(line[1:]))]
    except ValueError as wrong:
        raise OSError(f"the client does not speak the protocol of Redis: {wrong}") from None


def packed(command: list[bytes]) -> bytes:
    """Returns a command as it travels."""
    return b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in command)


def _bulk(stream: BinaryIO) -> bytes:
    head = stream.readline()
    if not head.startswith(b"$"):
        raise ValueError(repr(head[:40]))
    size = int(head[1:])
    return stream.read(size + 2)[:size]


def _pass_back(server: Link, client: Link) -> None:
    with contextlib.suppress(OSError):
        while data := server.sock.recv(65536):
            client.send(data)
            if client.ends_next:
                break
    client.end()
