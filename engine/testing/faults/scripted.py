"""A server that answers what it is told to: the part that all protocols share. `scripted_redis` and `scripted_amqp`
speak one each.

A script is a list of lines: at which command, which answer, how many times. What no line is about is answered as a
server that has nothing to complain of would, or by a real server behind this one.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

_TURN = 0.05
ALWAYS = 2**31
"""As ``times``: until `ScriptedServer.forget`."""


@dataclass(frozen=True)
class Answer:
    """What is said to a command, and what becomes of the connection.

    ``data`` are the bytes, or a function that makes them from the channel's number (AMQP). ``then``: "go on", "close"
    (the server ends the connection in good order) or "reset" (it is gone). ``right``: the right answer comes first.
    """

    data: bytes | Callable[[int], bytes] = b""
    then: Literal["go on", "close", "reset"] = "go on"
    right: bool = False

    def bytes_for(self, channel: int = 0) -> bytes:
        """Returns the bytes."""
        return self.data(channel) if callable(self.data) else self.data


SILENCE = Answer()
"""The command is taken, and never answered."""
HANG_UP = Answer(then="close")
RESET = Answer(then="reset")
RIGHT_THEN_HANG_UP = Answer(then="close", right=True)


@dataclass
class _Line:
    words: tuple[str, ...]
    answer: Answer
    left: int

    def fits(self, command: tuple[str, ...]) -> bool:
        return self.left > 0 and command[: len(self.words)] == self.words


class Link:
    """The connection of one client. Any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ends_next = False
        """Is what the server behind says next the last that is passed on?"""
        self._lock = threading.Lock()

    def send(self, data: bytes) -> None:
        """Sends bytes whole. Raises OSError."""
        with self._lock:
            self.sock.sendall(data)

    def say(self, answer: Answer, channel: int = 0) -> bool:
        """Says an answer; False when the connection ends with it."""
        if data := answer.bytes_for(channel):
            self.send(data)
        if answer.then == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return answer.then == "go on"

    def end(self) -> None:
        """Wakes whoever reads from it."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class ScriptedServer:
    """Listens at ``port`` of 127.0.0.1, with a thread for each client. To be closed, or used with ``with``.

    ``behind``: the port of a real server on this host, which answers what no line of the script is about.
    """

    def __init__(self, *, behind: int | None = None) -> None:
        self.heard: Counter[str] = Counter()
        """How often each command came, by its first word."""
        self.said = 0
        """Answers given by the script so far."""
        self._behind = behind
        self._lines: list[_Line] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._links: set[Link] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def script(self, command: str, *answers: Answer, times: int = 1) -> None:
        """Adds lines: the next commands that begin with these words (all commands: "") get these answers, in turn,
        each ``times`` times."""
        words = tuple(command.upper().split())
        with self._lock:
            self._lines += [_Line(words, answer, times) for answer in answers]

    def forget(self) -> None:
        """Drops what is left of the script."""
        with self._lock:
            self._lines.clear()

    @property
    def finished(self) -> bool:
        """Has all of the script been said?"""
        with self._lock:
            return not self._lines

    def links(self) -> list[Link]:
        """Returns the connections that are open."""
        return list(self._links)

    def close(self) -> None:
        """Ends it, with all connections."""
        self._ended.set()
        for link in self.links():
            link.end()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def next_line(self, *words: str) -> Answer | None:
        """Returns what the script has for this command; None: nothing."""
        command = tuple(word.upper() for word in words)
        self.heard[command[0]] += 1
        with self._lock:
            line = next((line for line in self._lines if line.fits(command)), None)
            if line is None:
                return None
            line.left -= 1
            if not line.left:
                self._lines.remove(line)
            self.said += 1
            return line.answer

    def serve(self, link: Link, server: Link | None) -> None:
        """Talks with one client, until its end. ``server``: the connection to the server behind this one."""
        raise NotImplementedError

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listener], [], [], _TURN)[0]:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._talk, args=(Link(client),), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _talk(self, link: Link) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(link.sock)
            # What ends a connection, of either side, is what this is for.
            stack.enter_context(contextlib.suppress(OSError))
            server = self._dial(stack)
            self._links.add(link)
            stack.callback(self._links.discard, link)
            self.serve(link, server)

    def _dial(self, stack: contextlib.ExitStack) -> Link | None:
        if self._behind is None:
            return None
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", self._behind), 5))
        sock.settimeout(None)
        server = Link(sock)
        stack.callback(server.end)
        return server
