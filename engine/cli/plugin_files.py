"""Writes the package of a new plugin.

The templates are complete plugins called "spool", in ``plugin_templates``: their words are replaced by the new name, in
the files and in the files' names. A name that ends in ``.in`` loses that: such a file is only right in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from engine.app.plugins import PLUGINS, RESULTS, TRANSPORTS, installed
from engine.errors import EngineError

TEMPLATES = Path(__file__).with_name("plugin_templates")
KINDS = {"transport": TRANSPORTS, "results": RESULTS, "observer": PLUGINS}
"""What can be written, and the entry-point group it is registered in."""
LONGEST_NAME = 40
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write(name: str, kind: str, folder: Path) -> list[Path]:
    """Writes a plugin of that name and kind into a new folder; returns the files, relative to it.

    Raises ValueError for a name that does not fit, EngineError when it is taken, when the folder is there already, and
    when it cannot be made.
    """
    check_name(name)
    check_is_free(name, kind)
    files = dict(contents(name, kind))
    try:
        folder.mkdir(parents=True)
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except FileExistsError:
        raise EngineError(f"{folder} is there already: remove it, or choose another folder with --into") from None
    except OSError as error:
        raise EngineError(f"{error.filename}: {error.strerror}: choose another folder with --into") from error
    return sorted(files)


def contents(name: str, kind: str) -> Iterator[tuple[Path, str]]:
    """Yields the files of a plugin: path and text."""
    template = TEMPLATES / kind
    for file in sorted(template.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            path = str(file.relative_to(template)).removesuffix(".in")
            yield Path(_renamed(path, name)), _renamed(file.read_text(encoding="utf-8"), name)


def check_name(name: str) -> None:
    """Raises ValueError for a name that cannot be a URL's scheme and part of a module's name."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:LONGEST_NAME].strip("-")
        hint = f', such as "{better}"' if better else ""
        raise ValueError(
            f"{name!r} is no name for a plugin: write lower-case letters and digits, in words joined by -, beginning "
            f"with a letter{hint}"
        )


def check_is_free(name: str, kind: str) -> None:
    """Raises EngineError when another distribution has the name: two of one name are refused at the start."""
    for plugin in installed():
        if plugin.group == KINDS[kind] and plugin.name == name and plugin.distribution != distribution(name):
            raise EngineError(f"{name!r} is taken: {plugin.distribution} has it in {plugin.group}: choose another name")


def distribution(name: str) -> str:
    """Returns the name of the distribution, which is also that of its folder."""
    return f"engine-{name}"


def _renamed(text: str, name: str) -> str:
    words = {
        "engine_spool": f"engine_{name.replace('-', '_')}",
        "Spool": "".join(word.capitalize() for word in name.split("-")),
        "spool": name,
    }
    return re.sub("|".join(words), lambda found: words[found[0]], text)
