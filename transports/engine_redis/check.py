"""What is looked at before a server is trusted with tasks: ``engine check``, and the start of an engine."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import BrokerUnavailable, ConfigError, TransportError
from engine_redis.address import Address
from engine_redis.scripts import PROBE
from engine_redis.server import Session

OLDEST = (6, 2)
"""The version that has the commands we need."""
_TYPES = {
    "messages": b"hash",
    "tallies": b"hash",
    "lines": b"hash",
    "void": b"hash",
    "due": b"zset",
    "workers": b"hash",
    "beats": b"hash",
    "seen": b"hash",
    "number": b"string",
    "letters": b"hash",
    "bodies": b"hash",
    "dead": b"zset",
    "deadcounts": b"hash",
    "revoked": b"zset",
    "paused": b"set",
    "order": b"string",
    "orders": b"list",
    "waiting": b"hash",
    "waitends": b"zset",
}
"""The keys that every namespace has, and what they hold."""
_LOCAL = ("localhost", "127.", "::1")


def look_over(address: Address, section: str = "broker") -> list[str]:
    """Connects and returns what an operator should know. Raises ConfigError for a server that must not be used so, and
    BrokerUnavailable."""
    session = Session(address, checking=True)
    try:
        where = f"[{section}] {session.call('PING') and session.where}"
        info = _info(session)
        _refuse(address, where, info)
        _expect_own_keys(session, where)
        session.run(PROBE, [])
        return _warnings(session, where, info, "results are" if section == "results" else "tasks are")
    finally:
        session.close()


def _info(session: Session) -> Mapping[str, str]:
    """Returns what the server says about itself: {} when this user may not ask."""
    try:
        text = session.call("INFO").decode(errors="replace")
    except ConfigError:
        return {}
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _refuse(address: Address, where: str, info: Mapping[str, str]) -> None:
    version = info.get("redis_version", "")
    if version and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise ConfigError(f"{where} is version {version}: the engine needs 6.2 or newer")
    if info.get("role") == "slave":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        raise ConfigError(f"{where} is a replica: write the address of its primary, {primary}, or of the sentinels")
    if info.get("cluster_enabled") == "1" and address.kind != "cluster":
        raise ConfigError(f"{where} is a node of a Cluster: write redis+cluster:// instead of redis://")
    if info.get("cluster_enabled") == "0" and address.kind == "cluster":
        raise ConfigError(f"{where} is no Cluster: write redis:// instead of redis+cluster://")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        raise ConfigError(
            f"{where} has maxmemory-policy {policy}, which throws queued tasks away when memory is short: "
            "set it to noeviction"
        )


def _expect_own_keys(session: Session, where: str) -> None:
    prefix = session.address.prefix
    for name, expected in _TYPES.items():
        found = session.call("TYPE", prefix + name)
        if found not in (expected, b"none"):
            raise ConfigError(
                f"{where}: the key {prefix}{name} holds a {found.decode()} that is not the engine's: rename it, or set "
                "another namespace"
            )


def _warnings(session: Session, where: str, info: Mapping[str, str], what: str) -> list[str]:
    address = session.address
    found = []
    if not info:
        found.append(f"{where}: this user may not call INFO, so memory policy and persistence are not checked")
    elif info.get("aof_enabled") == "0":
        found.append(f"{where} keeps no append-only file: {what} lost when it restarts; set appendonly yes")
    elif _appendfsync(session) == "no":
        found.append(f"{where} has appendfsync no: {what} lost when its host goes down, half a minute of them")
    if info.get("maxmemory_policy", "").startswith("volatile"):
        found.append(f"{where} has maxmemory-policy {info['maxmemory_policy']}: results may go before they expire")
    if address.password and not address.tls and address.kind != "unix":
        remote = [host for host, _ in address.hosts if not host.startswith(_LOCAL)]
        if remote:
            found.append(f"{where}: the password and all tasks travel unencrypted; rediss:// encrypts them")
    return found


def _appendfsync(session: Session) -> str:
    try:
        reply = session.call("CONFIG", "GET", "appendfsync")
    except BrokerUnavailable:
        raise
    except (ConfigError, TransportError):
        return ""
    return reply[1].decode() if reply else ""
