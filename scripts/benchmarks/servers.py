"""Servers of our own: the private ones of `engine.testing.faults`, set up for figures instead of for durability."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hiredis

from engine.testing.faults import brokers
from engine.testing.faults.brokers import need, search_path
from engine.testing.faults.rabbitmq import Rabbit
from trees import Tree


class Server:
    """One server that runs."""

    def __init__(self, name: str, url: str, process: subprocess.Popen[bytes] | None, version: str) -> None:
        assert process is not None, "it was started"
        self.name = name
        self.url = url
        self.version = version
        self.process = process
        self.tree = Tree(process.pid)

    def empty(self) -> None:
        """Deletes all that is in it."""
        raise NotImplementedError


class Redis(Server):
    """A Redis."""

    def empty(self) -> None:
        """See `Server.empty`."""
        redis_call(int(self.url.rpartition(":")[2].partition("/")[0]), b"FLUSHALL", b"SYNC")


class RabbitMQ(Server):
    """A RabbitMQ. Each run gets a virtual host of its own."""

    def __init__(self, node: Rabbit) -> None:
        super().__init__("rabbitmq", node.url, node.process, node.evaluate("rabbit_misc:version().").strip('"'))
        self._node = node
        self._runs = 0

    def empty(self) -> None:
        """See `Server.empty`."""
        self._runs += 1
        before, now = (f'<<"bench{number}">>' for number in (self._runs - 1, self._runs))
        everything = ", ".join(['<<".*">>'] * 3)
        self._node.evaluate(
            f'begin catch rabbit_vhost:delete({before}, <<"bench">>), rabbit_vhost:add({now}, <<>>, [], <<"bench">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, {now}, {everything}, <<"bench">>) end.'
        )
        self.url = self._node.url_of(f"bench{self._runs}")


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[Server]:
    """Runs a Redis that keeps its data in memory only, as all contenders are measured against the same."""
    text = subprocess.run([need("redis-server"), "--version"], capture_output=True, text=True, check=True).stdout
    with contextlib.closing(brokers.Redis(folder, durable=False)) as redis:
        redis.start()
        yield Redis("redis", redis.url, redis.process, text.split("v=")[1].split()[0])


@contextlib.contextmanager
def rabbitmq_server(folder: Path) -> Iterator[Server]:
    """Runs a RabbitMQ of one node, with as many schedulers as it would have anywhere on this machine."""
    # Messages wait on this machine's disk, whatever is free there.
    with contextlib.closing(Rabbit(folder, {"disk_free_limit.absolute": "50MB"}, schedulers=None)) as node:
        node.start()
        server = RabbitMQ(node)
        server.empty()
        yield server


def redis_call(port: int, *words: bytes) -> object:
    """Sends one command over a connection of its own. Raises OSError."""
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(hiredis.pack_command(words))
        reader = hiredis.Reader()
        while (reply := reader.gets()) is False:
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("Redis hung up")
            reader.feed(data)
        return reply


def is_there(program: str) -> bool:
    """Is this server installed?"""
    return shutil.which(program, path=search_path()) is not None
