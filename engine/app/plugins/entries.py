"""Which module is installed for a name: the entry points of distributions.

`importlib.metadata` is imported late: it brings parsers of mail and of archives (3 MB), and the engine's processes do
without. The dispatcher, which needs the answer, has another process look and remembers what that found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Installed:
    """An entry point: the module that a distribution brings for a name. One line of `engine plugins`."""

    group: str
    name: str
    module: str
    distribution: str
    version: str


def named(group: str, name: str) -> list[Installed]:
    """Returns what is installed as ``name`` in a group: more than one where distributions are at odds."""
    return [one for one in listed(group) if one.name == name]


def listed(group: str) -> list[Installed]:
    """Returns all that is installed in a group, each once, by name."""
    found = _look_up(group) if _remembered is None else {one for one in _remembered if one.group == group}
    return sorted(found, key=lambda one: (one.name, one.module))


def remember(entries: Sequence[Installed]) -> None:
    """Takes ``entries`` for all that is installed: this process looks no more."""
    global _remembered
    _remembered = entries


_remembered: Sequence[Installed] | None = None


def _look_up(group: str) -> set[Installed]:
    from importlib import metadata  # late: see above

    found = set()
    for entry in metadata.entry_points(group=group):
        distribution, version = ("unknown", "") if entry.dist is None else (entry.dist.name, entry.dist.version)
        found.add(Installed(group, entry.name, entry.value, distribution, version))
    return found
