"""Which module is installed for a name: what distributions say in their ``entry_points.txt``.

`importlib.metadata` reads it too, with a parser of mail and one of archives that no other part of an engine needs: 3 MB
in every dispatcher, and 25 ms of its start and of a client's first call. So one name is looked up in the folders of
``sys.path`` first, and only what is not there (in an archive, or behind an import hook) the long way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
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
    found = [one for one in _in_folders(group) if one.name == name]
    return found or [one for one in listed(group) if one.name == name]


def listed(group: str) -> list[Installed]:
    """Returns all that is installed in a group, by name."""
    from importlib import metadata  # late: see above

    found = []
    for entry in metadata.entry_points(group=group):
        distribution, version = ("unknown", "") if entry.dist is None else (entry.dist.name, entry.dist.version)
        found.append(Installed(group, entry.name, entry.value, distribution, version))
    return sorted(found, key=lambda one: one.name)


def _in_folders(group: str) -> Iterator[Installed]:
    seen = set()
    for folder in sys.path:
        try:
            names = os.listdir(folder or os.curdir)
        except OSError:
            continue  # not there, or an archive
        for name in names:
            distribution = name.partition("-")[0].lower().replace(".", "_")
            # The first of a name is the one that is imported from.
            if name.endswith((".dist-info", ".egg-info")) and distribution not in seen:
                seen.add(distribution)
                yield from _entries(os.path.join(folder, name), group)


def _entries(folder: str, group: str) -> Iterator[Installed]:
    wanted = f"[{group}]"
    text = _text(folder, "entry_points.txt")
    if wanted not in text:
        return
    section = ""
    for line in text.splitlines():
        name, equals, module = line.partition("=")
        if line.startswith("["):
            section = line.strip()
        elif section == wanted and equals and not line.startswith(("#", ";")):
            module = module.partition("[")[0]  # less its extras
            yield Installed(group, name.strip(), module.strip(), *_name_and_version(folder))


def _name_and_version(folder: str) -> tuple[str, str]:
    text = _text(folder, "METADATA") or _text(folder, "PKG-INFO")
    head = dict(line.split(": ", 1) for line in text.partition("\n\n")[0].splitlines() if ": " in line)
    return head.get("Name", "unknown"), head.get("Version", "")


def _text(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
