"""A TCP proxy that loses replies, hangs, or cuts connections, as networks do."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading


class Proxy:
    """Passes bytes between clients and one server, in threads of its own.

    ``lose`` is the part of the server's answers that are swallowed, with the connection cut behind them. ``hanging``
    passes nothing on, either way, and accepts nothing: a link that is half open.
    """

    def __init__(self, port: int, seed: int = 0) -> None:
        self.lose = 0.0
        self.lost = 0
        self.hanging = False
        self._random = random.Random(seed)
        self._to = port
        self._ended = threading.Event()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Redis behind the proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Resets all connections."""
        for pair in list(self._pairs):
            for end in pair:
                _reset(end)

    def close(self) -> None:
        """Ends it."""
        self._ended.set()
        self.cut()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if not select.select([self._listener], [], [], 0.05)[0]:
                continue
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self._to), 5)
            except OSError:
                _reset(client)
                continue
            pair = (client, server)
            self._pairs.add(pair)
            thread = threading.Thread(target=self._carry, args=pair, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while not self._ended.is_set() and self._step(client, server):
                pass
        finally:
            self._pairs.discard((client, server))
            client.close()
            server.close()

    def _step(self, client: socket.socket, server: socket.socket) -> bool:
        if self.hanging:
            self._ended.wait(0.05)
            return True
        try:
            ready = select.select([client, server], [], [], 0.05)[0]
            if client in ready:
                data = client.recv(65536)
                server.sendall(data)
                if not data:
                    return False
            if server in ready:
                data = server.recv(65536)
                if not data:
                    return False
                if self._random.random() < self.lose:
                    self.lost += 1
                    _reset(client)
                    return False
                client.sendall(data)
        except (OSError, ValueError):
            return False
        return True


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
