"""``amqp://user:password@host1:5672,host2/vhost``: the URL and options, as pika's parameters."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import pika

from engine.errors import ConfigError

PORTS = {"amqp": 5672, "amqps": 5671, "rpc": 5672}
"""Schemes and the ports they mean."""
TLS = {"ca_file": str, "cert_file": str, "key_file": str}
"""Options that are files: whom to trust (not set: whom the system trusts), and who we are."""
HEARTBEAT = 5.0
"""Seconds between signs of life, as agreed with the server."""
CONNECT_TIMEOUT = 5.0
"""Seconds for each step of connecting."""
_DEAD_PEER = 8000
"""Milliseconds after which the kernel gives up on data that nobody acknowledges."""
_FORM = "write amqp://user:password@host/vhost"


class Address:
    """Where the server is, and how to connect."""

    def __init__(self, url: str, options: Mapping[str, Any], section: str = "broker") -> None:
        """Raises ConfigError for a URL or TLS file that cannot be read; it names the section of the settings."""
        parts = _split(url, section)
        self.place = _redacted(parts)
        """The URL without its password."""
        self.heartbeat = float(options.get("heartbeat", HEARTBEAT))
        if not 1 <= self.heartbeat <= 600:
            raise ConfigError(f"[{section}] heartbeat = {self.heartbeat:g}: write between 1 and 600 seconds")
        self._parts = parts
        self._tls = _tls(options) if parts.scheme == "amqps" else None
        self._hosts = _hosts(parts, section)

    @property
    def vhost(self) -> str:
        """The virtual host."""
        return unquote(self._parts.path[1:]) or "/"

    @property
    def servers(self) -> Sequence[tuple[str, int]]:
        """The hosts and ports, in the order in which they are tried."""
        return self._hosts

    def parameters(self, purpose: str) -> list[pika.ConnectionParameters]:
        """Returns what to connect with, one for each host. ``purpose`` is shown by the server's tools."""
        name = f"engine {purpose} {os.getpid()}@{socket.gethostname()}"
        user = unquote(self._parts.username or "guest")
        password = unquote(self._parts.password or "guest")
        return [
            pika.ConnectionParameters(
                host=host,
                port=port,
                virtual_host=self.vhost,
                credentials=pika.PlainCredentials(user, password, erase_on_connect=False),
                heartbeat=int(self.heartbeat),
                socket_timeout=CONNECT_TIMEOUT,
                stack_timeout=2 * CONNECT_TIMEOUT,
                connection_attempts=1,
                ssl_options=None if self._tls is None else pika.SSLOptions(self._tls, host),
                client_properties={"connection_name": name, "product": "prefork-engine"},
                tcp_options={"TCP_USER_TIMEOUT": _DEAD_PEER},
            )
            for host, port in self._hosts
        ]


def _split(url: str, section: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"[{section}] url: {error}: {_FORM}") from None
    if parts.scheme not in PORTS or not parts.netloc:
        raise ConfigError(f"[{section}] url: {_FORM}")
    where = f"[{section}] url {_redacted(parts)}"
    if parts.query or parts.fragment:
        raise ConfigError(f"{where}: nothing may follow the vhost: options are keys of the section")
    if "/" in parts.path[1:]:
        raise ConfigError(f"{where}: a vhost with a slash in its name is written with %2F")
    return parts


def _hosts(parts: SplitResult, section: str) -> list[tuple[str, int]]:
    hosts = []
    for one in parts.netloc.rpartition("@")[2].split(","):
        try:
            split = urlsplit(f"//{one}")
            hosts.append((split.hostname or "localhost", split.port or PORTS[parts.scheme]))
        except ValueError as error:
            raise ConfigError(f"[{section}] url {_redacted(parts)}: {one}: {error}: {_FORM}") from None
    return hosts


def _redacted(parts: SplitResult) -> str:
    user, at, hosts = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return f"{parts.scheme}://{name}{at}{hosts}{parts.path}"


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ca_file"))
        if options.get("cert_file"):
            context.load_cert_chain(options["cert_file"], options.get("key_file"))
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(options[name]) for name in TLS if options.get(name))
        raise ConfigError(f"TLS files ({files}): {error}") from error
    return context
