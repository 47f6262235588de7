"""Which module is installed for a name: the entry points of distributions.

`importlib.metadata` is imported late: it brings parsers of mail and of archives (3 MB), and the supervisor, the
template and the children do without.
"""

from __future__ import annotations

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
    from importlib import metadata  # late: see above

    found = set()
    for entry in metadata.entry_points(group=group):
        distribution, version = ("unknown", "") if entry.dist is None else (entry.dist.name, entry.dist.version)
        found.add(Installed(group, entry.name, entry.value, distribution, version))
    return sorted(found, key=lambda one: (one.name, one.module))
