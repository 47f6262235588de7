"""What an error of Redis means to the engine: one table.

An error's first word is its code. Inside a script, Redis before 7 wraps it: "ERR Error running script ...: -OOM ...";
from 7 on it says behind the error in which line of which script.
"""

from __future__ import annotations

import re
from typing import Final

from engine.errors import BrokerFull, BrokerUnavailable, ConfigError, TransportError

RETRY: Final = "retry"
"""Trying again may help, on the same connection."""
RECONNECT: Final = "reconnect"
"""Trying again may help, on another connection: the server has changed its role or is not ready."""
FULL: Final = "full"
"""It refuses writes."""
CONFIG: Final = "config"
"""The configuration is wrong. While an engine runs it is an outage all the same: somebody is changing a password."""
REFUSED: Final = "refused"
"""Trying again does not help."""

KINDS: Final = {
    "LOADING": (RECONNECT, "is loading its data"),
    "READONLY": (RECONNECT, "is a replica, which takes no writes"),
    "MASTERDOWN": (RECONNECT, "is a replica that has lost its primary"),
    "NOREPLICAS": (RETRY, "has too few replicas to take writes (min-replicas-to-write)"),
    "BUSY": (RETRY, "is busy with somebody's script"),
    "CLUSTERDOWN": (RETRY, "is a cluster that is down"),
    "TRYAGAIN": (RETRY, "is moving the namespace to another node"),
    "ASK": (RETRY, "is moving the namespace to another node"),
    "MOVED": (RECONNECT, "says that the namespace is on another node"),
    "OOM": (FULL, "is out of memory (maxmemory)"),
    "MISCONF": (FULL, "cannot write to its disk and takes no writes"),
    "NOAUTH": (CONFIG, "wants a password: put it into the URL, redis://:password@host or redis://user:password@host"),
    "WRONGPASS": (CONFIG, "refuses this user name and password"),
    "NOPERM": (CONFIG, "does not permit this user what the engine needs"),
    "NOSCRIPT": (RETRY, "has forgotten the engine's scripts again"),
    "WRONGTYPE": (RETRY, "has something else in one of the engine's keys"),
    "FOREIGN": (REFUSED, "has something else in one of the engine's keys"),
}
"""By code: what to do about it, and a sentence."""

_ERRORS: Final = (
    ("invalid password", "WRONGPASS"),
    ("without any password configured", "NOPASSWORD"),
    ("The user executing the script can't", "NOPERM"),
    ("DB index is out of range", "NODB"),
    ("max number of clients reached", "CLIENTS"),
    ("SELECT is not allowed in cluster mode", "NODB"),
)
_NAMELESS: Final = {
    "NOPASSWORD": (CONFIG, "has no password set for this user: leave it out of the URL"),
    "NODB": (CONFIG, "has no database of that number"),
    "CLIENTS": (RECONNECT, "has too many clients (maxclients)"),
}
_WRAPPED = re.compile(r": -([A-Z]+) ")
_PLACE = re.compile(r" script: [0-9a-f]{40}, on @user_script:\d+\.$")


def code_of(text: str) -> str:
    """Returns the code of an error reply."""
    code = text.partition(" ")[0]
    if code != "ERR":
        return code
    if wrapped := _WRAPPED.search(text):
        return wrapped[1]
    return next((code for part, code in _ERRORS if part in text), "ERR")


def kind_of(text: str) -> str:
    """Returns what to do about an error reply."""
    return _entry(text)[0]


def failure(where: str, text: str, *, checking: bool = False) -> TransportError | ConfigError:
    """Returns the exception for an error reply. ``checking``: the configuration is being looked at, not in use."""
    kind, sentence = _entry(text)
    # The place in the script helps with an error that is not in the table, and with no other.
    message = f"{where} {sentence}: {_PLACE.sub('', text)}" if sentence else f"{where} answers: {text}"
    if kind == CONFIG and checking:
        return ConfigError(message)
    if kind == FULL:
        return BrokerFull(message)
    if kind == REFUSED:
        return TransportError(message)
    return BrokerUnavailable(message)


def _entry(text: str) -> tuple[str, str]:
    code = code_of(text)
    return KINDS.get(code) or _NAMELESS.get(code) or (REFUSED, "")
