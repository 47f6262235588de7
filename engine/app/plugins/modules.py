"""Imports plugin modules and checks their hooks: what is wrong with a plugin is said at the start, in one sentence.

Surprising facts about pluggy 1.7 this rests on: its own entry-point loader imports every plugin of a group; a second
distribution that claims a name is skipped silently; a misspelt hook passes unless ``check_pending()`` is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from engine.app.nearest import did_you_mean
from engine.app.plugins.entries import Installed, named
from engine.contract import hookspecs
from engine.contract.hookspecs import PROJECT
from engine.errors import PluginError

DISTRIBUTION = "prefork-engine"
EXTRAS = {"redis": "redis", "rediss": "redis", "amqp": "rabbitmq", "amqps": "rabbitmq", "rpc": "rabbitmq"}
"""URL schemes of this distribution whose client library comes with an extra."""


def from_entry_point(group: str, name: str) -> ModuleType | None:
    """Imports the plugin that is installed as ``name`` in ``group``, and no other. None: there is none of that name.

    Raises PluginError when two distributions claim the name, when it cannot be imported, and for wrong hooks.
    """
    entries = named(group, name)
    if len(entries) > 1:
        claims = " and ".join(sorted(f"{one.distribution} ({one.module})" for one in entries))
        raise PluginError(f"{group}: two distributions claim {name!r}: {claims}: uninstall one of them")
    if not entries:
        return None
    (entry,) = entries
    module = _load(entry)
    check(module, f"plugin {name} ({entry.module}, of {entry.distribution})")
    return module


def from_file(text: str) -> ModuleType:
    """Imports the plugin in a Python file, once in a process. Raises PluginError when the file does not exist or cannot
    be imported, and for wrong hooks."""
    path = Path(text).absolute()
    if not path.is_file():
        raise PluginError(f"[plugins] load: {text}: no such file (looked for {path})")
    name = f"engine_plugin_{path.stem}_{zlib.crc32(bytes(path)):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"[plugins] load: {text}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the plugin raises is told as its error
        del sys.modules[name]
        raise PluginError(f"[plugins] load: {place_of(error, str(path))}{type(error).__name__}: {error}") from error
    try:
        check(module, f"plugin {text}")
    except PluginError:
        del sys.modules[name]  # or the next call would return it as one that was checked
        raise
    return module


def check(module: ModuleType, what: str) -> None:
    """Raises PluginError unless the module has hooks, all of them known and with arguments that their hook has."""
    found = implementations(module)
    if not found:
        raise PluginError(f"{what} has no hooks: mark its functions with @hookimpl (from engine.contract)")
    specs = dict(_specifications())
    for name, function in found.items():
        if name not in specs:
            raise PluginError(f"{what}: {name} is not a hook{did_you_mean(name, specs) or _known(specs)}")
        allowed = inspect.signature(specs[name]).parameters
        unknown = [argument for argument in inspect.signature(function).parameters if argument not in allowed]
        if unknown:
            raise PluginError(
                f"{what}: {name}() takes {', '.join(unknown)}, which the hook does not give: "
                f"write def {name}({', '.join(allowed)})"
            )


def implementations(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Returns the hooks of a module, by the names of what they implement."""
    found = {}
    for name, value in vars(module).items():
        options = getattr(value, f"{PROJECT}_impl", None) if inspect.isroutine(value) else None
        if isinstance(options, dict):
            found[options.get("specname") or name] = value
    return found


def manager(modules: dict[str, ModuleType]) -> pluggy.PluginManager:
    """Returns a pluggy manager with these checked modules registered under their names."""
    plugins = pluggy.PluginManager(PROJECT)
    plugins.add_hookspecs(hookspecs)
    try:
        for name, module in modules.items():
            plugins.register(module, name)
        plugins.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(f"plugins: {' '.join(str(error).split())}") from error
    return plugins


def place_of(error: BaseException, prefer: str) -> str:
    """Returns ``file:line: `` of the deepest frame of the traceback in the file ``prefer``, or "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == prefer]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _load(entry: Installed) -> ModuleType:
    if ":" in entry.module:
        raise PluginError(
            f"{entry.group}: {entry.name} of {entry.distribution} names {entry.module}, which is not a module: "
            "an entry point must name the module that holds the hooks"
        )
    try:
        return importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        raise PluginError(_missing(entry, error)) from error
    except Exception as error:  # whatever the plugin raises is told as its error
        raise PluginError(
            f"plugin {entry.name} of {entry.distribution} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _missing(entry: Installed, error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    what = f"plugin {entry.name} of {entry.distribution}"
    if package == entry.module.partition(".")[0]:
        return f"{what} names {entry.module}, which is not there: install {entry.distribution} again"
    if entry.name in EXTRAS and entry.distribution == DISTRIBUTION:
        return f"{what} needs the package {package}: pip install '{DISTRIBUTION}[{EXTRAS[entry.name]}]'"
    return f"{what} needs the package {package}: pip install {package}"


def _specifications() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in vars(hookspecs).items():
        if inspect.isfunction(value) and hasattr(value, f"{PROJECT}_spec"):
            yield name, value


def _known(specs: dict[str, Callable[..., Any]]) -> str:
    return f": there are {', '.join(specs)}"
