"""Where a Redis is: what the URL says, and how each form of it finds the server to talk to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

import msgspec

from engine.errors import ConfigError

Kind = Literal["single", "unix", "sentinel", "cluster"]
FORMS = (
    "redis://host:6379/0",
    "rediss://host:6379/0",
    "redis+unix:///path/to/socket",
    "redis+sentinel://host:26379,host:26379/name/0",
    "redis+cluster://host:6379,host:6379",
)
"""The URLs that are understood."""

_URL = re.compile(
    r"(?P<tls>redis|rediss)(\+(?P<kind>unix|socket|sentinel|cluster))?://"
    r"((?P<user>[^:@/]*)(:(?P<password>.*))?@)?(?P<hosts>[^/?@]*)(?P<path>/[^?]*)?(\?(?P<query>.*))?"
)
_HOST = re.compile(r"(\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<name>[^:\[\]]+))(:(?P<port>\d{1,5}))?")
_NAMESPACE = re.compile(r"[A-Za-z0-9._:/-]{1,64}")

OPTIONS: Mapping[str, type] = {
    "namespace": str,
    "timeout": float,
    "ca_file": str,
    "cert_file": str,
    "key_file": str,
    "sentinel_username": str,
    "sentinel_password": str,
}
"""The keys of ``[broker]`` and ``[results]`` that are ours."""


class Address(msgspec.Struct, frozen=True):
    """One server, or one group of servers, and the namespace in it."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    """Of a Sentinel group the sentinels, of a Cluster some nodes. Of a unix socket (path, 0)."""
    tls: bool = False
    username: str | None = None
    password: str | None = None
    db: int = 0
    group: str = ""
    """The name that the sentinels know the servers by."""
    namespace: str = "engine"
    timeout: float = 5.0
    """Seconds that a connection or an answer may take."""
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    @property
    def prefix(self) -> str:
        """What every key begins with. The braces keep all keys of a namespace in one slot of a Cluster."""
        return f"{{{self.namespace}}}:"

    @property
    def place(self) -> tuple[Kind, tuple[tuple[str, int], ...], int, str, str]:
        """What two addresses of the same keys have in common."""
        return (self.kind, self.hosts, self.db, self.group, self.namespace)

    def __str__(self) -> str:
        hosts = ",".join(host if self.kind == "unix" else written(host, port) for host, port in self.hosts)
        return {
            "single": "redis at ",
            "unix": "redis at ",
            "sentinel": "sentinels at ",
            "cluster": "redis cluster at ",
        }[self.kind] + hosts


def written(host: str, port: int) -> str:
    """Returns host and port as text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(url: str, options: Mapping[str, Any], section: str = "broker") -> Address:
    """Reads a URL and the options beside it. Raises ConfigError, which never shows the password."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ConfigError(f"[{section}] url cannot be read: write one of {', '.join(FORMS)}")
    kind: Kind = {None: "single", "socket": "unix"}.get(match["kind"], match["kind"])  # type: ignore[assignment]  # one of them
    path = [unquote(part) for part in (match["path"] or "").split("/")[1:]]
    query = dict(parse_qsl(match["query"] or ""))
    if unknown := query.keys() - {"db"}:
        raise ConfigError(
            f"[{section}] url: {sorted(unknown)[0]!r} is no part of it: only ?db= is; see {', '.join(OPTIONS)}"
        )
    hosts, group, db = _parts(kind, match["hosts"], path, section)
    known = {key: value for key, value in options.items() if key in OPTIONS}
    address = Address(
        kind,
        hosts,
        tls=match["tls"] == "rediss",
        username=unquote(match["user"]) if match["user"] else None,
        password=unquote(match["password"]) if match["password"] else None,
        db=_number(query.get("db", db) or "0", section),
        group=group,
        **known,
    )
    _check(address, section)
    return address


def _parts(kind: Kind, hosts: str, path: list[str], section: str) -> tuple[tuple[tuple[str, int], ...], str, str]:
    """Returns the hosts, the group's name and the text of the database's number."""
    if kind == "unix":
        if hosts or not any(path):
            raise ConfigError(f'[{section}] url: a socket is written "redis+unix:///path/to/socket?db=0"')
        return (("/" + "/".join(path), 0),), "", ""
    port = 26379 if kind == "sentinel" else 6379
    found = tuple(_host(text, port, section) for text in (hosts or "localhost").split(","))
    if kind == "single" and len(found) > 1:
        raise ConfigError(f"[{section}] url names several hosts: write redis+sentinel:// or redis+cluster://")
    if kind == "sentinel":
        if not path or not path[0]:
            raise ConfigError(f'[{section}] url: name the group, as in "{FORMS[3]}"')
        return found, path[0], "/".join(path[1:])
    return found, "", "/".join(path)


def _host(text: str, port: int, section: str) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    number = int(match["port"] or port) if match is not None else 0
    if match is None or not 0 < number < 65536:
        raise ConfigError(f"[{section}] url: {text!r} is no host or host:port")
    return (match["six"] or match["name"], number)


def _number(text: str, section: str) -> int:
    if not text.isdigit():
        raise ConfigError(f"[{section}] url: the database is a number, not {text!r}")
    return int(text)


def _check(address: Address, section: str) -> None:
    if not _NAMESPACE.fullmatch(address.namespace):
        raise ConfigError(f"[{section}] namespace: 1 to 64 letters, digits and . _ - : /, not {address.namespace!r}")
    if address.timeout <= 0:
        raise ConfigError(f"[{section}] timeout: more than 0 seconds")
    if address.kind == "cluster" and address.db:
        raise ConfigError(f"[{section}] url: a Cluster has database 0 only")
    if address.key_file and not address.cert_file:
        raise ConfigError(f"[{section}] key_file needs cert_file")
