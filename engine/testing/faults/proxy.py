"""A TCP proxy that does to bytes what networks do: loses replies, cuts connections, tears messages, hangs, is slow."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
import time

_TURN = 0.02


class Proxy:
    """Passes bytes between clients and one server, in threads of its own. All switches may be set at any time.

    ``lose``: the part of the server's answers that is swallowed, with the connection reset behind them: the server has
    done what it was asked, and the client does not know. ``tear``: the part of the packets, of either side, of which
    only a piece is passed on before the reset. ``hanging``: nothing is passed on and nobody let in, as on a link that
    is half open. ``delay``: seconds by which each packet is late.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", seed: int = 0) -> None:
        self.lose = 0.0
        self.tear = 0.0
        self.delay = 0.0
        self.hanging = False
        self.lost = 0
        """Answers swallowed so far."""
        self.torn = 0
        """Packets torn so far."""
        self._random = random.Random(seed)
        self._to = (host, port)
        self._ended = threading.Event()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Resets all connections."""
        for pair in list(self._pairs):
            for end in pair:
                _reset(end)

    def close(self) -> None:
        """Ends it, with all connections."""
        self._ended.set()
        self.cut()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if self.hanging or not select.select([self._listener], [], [], _TURN)[0]:
                self._ended.wait(_TURN if self.hanging else 0)
                continue
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(self._to, 5)
            except OSError:
                _reset(client)
                client.close()
                continue
            thread = threading.Thread(target=self._carry, args=(client, server), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        pair = (client, server)
        self._pairs.add(pair)
        try:
            while not self._ended.is_set() and self._step(client, server):
                pass
        finally:
            self._pairs.discard(pair)
            client.close()
            server.close()

    def _step(self, client: socket.socket, server: socket.socket) -> bool:
        if self.hanging:
            return not self._ended.wait(_TURN)
        try:
            ready = select.select([client, server], [], [], _TURN)[0]
            going = client not in ready or self._pass(client, server, lose=0.0)
            return going and (server not in ready or self._pass(server, client, lose=self.lose))
        except (OSError, ValueError):
            return False  # an end is gone: with it goes the other

    def _pass(self, source: socket.socket, target: socket.socket, *, lose: float) -> bool:
        data = source.recv(65536)
        if not data:
            return False
        if self.delay:
            time.sleep(self.delay)
        if self._random.random() < lose:
            self.lost += 1
            _reset(target)
            return False
        if self._random.random() < self.tear:
            self.torn += 1
            target.sendall(data[: self._random.randrange(len(data))])
            _reset(target)
            return False
        target.sendall(data)
        return True


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
