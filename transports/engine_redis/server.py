"""Finds the server behind an address, logs in, and runs commands there: what one lane of the engine talks through."""

from __future__ import annotations

import os
from collections.abc import Sequence

import hiredis

from engine.errors import BrokerUnavailable, ConfigError, TransportError
from engine_redis.address import Address, written
from engine_redis.connection import Argument, Connection, Reply, dial
from engine_redis.failures import RECONNECT, code_of, failure, kind_of
from engine_redis.scripts import Script

_HOPS = 3
"""Nodes of a Cluster that are followed from one to the next."""


class Session:
    """One connection at a time to the server that holds the namespace. Connects at the first use, and after an error at
    the next; nothing is sent twice. Belongs to one lane.

    ``reopens``: a connection that the server closed while nothing was under way is replaced without a word (a server
    may close those that idle). Otherwise that is an error: the server may have been restarted, or be another.
    """

    def __init__(self, address: Address, *, protocol: int = 2, checking: bool = False, reopens: bool = True) -> None:
        self.address = address
        self._protocol = protocol
        self._checking = checking
        self._connection: Connection | None = None
        self._where = str(address)
        self._pid = 0
        self._reopens = reopens
        self._node: tuple[str, int] | None = None
        """Of a Cluster: the node that was named last."""

    @property
    def where(self) -> str:
        """The server, for messages."""
        return self._where

    @property
    def connected(self) -> bool:
        """Is there a connection that works as far as is known?"""
        return self._connection is not None and self._pid == os.getpid()

    def run(self, script: Script, arguments: Sequence[Argument]) -> Reply:
        """Runs a script. Raises as `call`."""
        reply = self._ask(("EVALSHA", script.sha, 1, self.address.prefix, *arguments))
        if type(reply) is hiredis.ReplyError:
            if code_of(str(reply)) != "NOSCRIPT":
                raise self._failed(str(reply))
            self.call("SCRIPT", "LOAD", script.text)
            return self.call("EVALSHA", script.sha, 1, self.address.prefix, *arguments)
        return reply

    def call(self, *command: Argument) -> Reply:
        """Runs a command. Raises BrokerUnavailable, BrokerFull, TransportError; ConfigError when checking."""
        reply = self._ask(command)
        if type(reply) is hiredis.ReplyError:
            raise self._failed(str(reply))
        return reply

    def send(self, *command: Argument) -> None:
        """Sends a command whose reply is read later. Raises BrokerUnavailable."""
        connection = self.connection()
        try:
            connection.send(command)
        except OSError as error:
            raise self._lost(error) from None

    def read_some(self) -> list[Reply]:
        """Returns replies that have come, when poll says that there are any. Raises BrokerUnavailable."""
        try:
            replies = self.connection().read_some()
        except (OSError, hiredis.HiredisError) as error:
            raise self._lost(error) from None
        for reply in replies:
            if type(reply) is hiredis.ReplyError:
                raise self._failed(str(reply))
        return replies

    def connection(self) -> Connection:
        """Returns the connection, opening it if there is none."""
        if self._connection is None or self._pid != os.getpid():
            self._connection = self._connect()
            self._pid = os.getpid()
        return self._connection

    def close(self) -> None:
        """Closes the connection. Any thread; more than once is harmless."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _ask(self, command: tuple[Argument, ...]) -> Reply:
        reply = self._exchange(command)
        if type(reply) is hiredis.ReplyError and str(reply).startswith("MOVED "):
            # Not carried out: it can be said again, to the node that is named.
            self._node = _moved_to(str(reply))
            self.close()
            reply = self._exchange(command)
        return reply

    def _exchange(self, command: tuple[Argument, ...]) -> Reply:
        if self._reopens and self._connection is not None and self._connection.is_stale():
            self.close()
        connection = self.connection()
        try:
            connection.send(command)
            reply = connection.read()
        except (OSError, hiredis.HiredisError) as error:
            raise self._lost(error) from None
        return reply

    def _failed(self, text: str) -> TransportError | ConfigError:
        if kind_of(text) == RECONNECT:
            self.close()
            self._node = None
        return failure(self._where, text, checking=self._checking)

    def _lost(self, error: Exception) -> BrokerUnavailable:
        self.close()
        self._node = None
        return BrokerUnavailable(f"{self._where}: {_reason(error, self.address.timeout)}")

    def _connect(self) -> Connection:
        address = self.address
        try:
            if address.kind == "sentinel":
                return self._login(*self._ask_sentinels())
            if address.kind == "cluster":
                return self._connect_cluster()
            return self._login(*address.hosts[0])
        except (OSError, hiredis.HiredisError) as error:
            raise self._lost(error) from None

    def _connect_cluster(self) -> Connection:
        """Connects to the node that was named last, or any, and goes on to the one that it says has the namespace."""
        connection = self._login_to_any([self._node] if self._node is not None else self.address.hosts)
        for _ in range(_HOPS):
            # A key that does not exist is as good as any: all keys of the namespace are in one slot.
            reply = connection.call("EXISTS", self.address.prefix)
            if type(reply) is not hiredis.ReplyError or code_of(str(reply)) != "MOVED":
                return connection
            connection.close()
            self._node = _moved_to(str(reply))
            connection = self._login(*self._node)
        return connection

    def _login_to_any(self, hosts: Sequence[tuple[str, int]]) -> Connection:
        problems = []
        for host, port in hosts:
            try:
                return self._login(host, port)
            except OSError as error:
                problems.append(f"{written(host, port)}: {_reason(error, self.address.timeout)}")
        raise ConnectionError("; ".join(problems))

    def _ask_sentinels(self) -> tuple[str, int]:
        address = self.address
        problems = []
        for host, port in address.hosts:
            try:
                connection = dial(address, host, port)
                if address.sentinel_password:
                    _authenticate(connection, address.sentinel_username, address.sentinel_password)
                found = connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.group)
                connection.close()
            except (OSError, hiredis.HiredisError) as error:
                problems.append(f"{written(host, port)}: {_reason(error, address.timeout)}")
                continue
            if isinstance(found, list):
                return found[0].decode(), int(found[1])
            problems.append(f"{written(host, port)}: {found or f'knows no group {address.group!r}'}")
        raise ConnectionError("; ".join(problems))

    def _login(self, host: str, port: int) -> Connection:
        """Opens a connection and makes it ours: user, protocol, database."""
        address = self.address
        self._where = f"redis at {host if address.kind == 'unix' else written(host, port)}"
        connection = dial(address, host, port)
        try:
            for command in self._greetings():
                reply = connection.call(*command)
                if type(reply) is hiredis.ReplyError:
                    raise failure(self._where, str(reply), checking=self._checking)
            if address.kind == "sentinel":
                _expect_primary(connection, self._where)
        except BaseException:
            connection.close()
            raise
        return connection

    def _greetings(self) -> list[tuple[Argument, ...]]:
        address = self.address
        commands: list[tuple[Argument, ...]] = []
        if address.password is not None:
            user = (address.username,) if address.username else ()
            commands.append(("AUTH", *user, address.password))
        if self._protocol != 2:
            commands.append(("HELLO", self._protocol))
        if address.db:
            commands.append(("SELECT", address.db))
        return commands


def _authenticate(connection: Connection, username: str | None, password: str) -> None:
    reply = connection.call("AUTH", *((username,) if username else ()), password)
    if type(reply) is hiredis.ReplyError:
        raise ConnectionError(str(reply))


def _expect_primary(connection: Connection, where: str) -> None:
    """Sentinels may still name a server that is a replica by now."""
    role = connection.call("ROLE")
    if isinstance(role, list) and role[0] != b"master":
        raise ConnectionError(f"{where} is a replica still: the sentinels have not agreed yet")


def _moved_to(text: str) -> tuple[str, int]:
    host, _, port = text.split(" ")[2].rpartition(":")
    return host.strip("[]"), int(port)


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {timeout:g} s"
    if isinstance(error, hiredis.HiredisError):
        return f"does not speak the protocol of Redis: {error}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
