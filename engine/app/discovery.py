"""Imports the user's app: what goes wrong in there is told in a line that names file and line, never as a traceback
through the engine."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from types import ModuleType

from engine.app import leftovers
from engine.app.app import Engine
from engine.app.debug import debugging
from engine.app.nearest import did_you_mean
from engine.app.settings import Settings
from engine.errors import ConfigError, EngineError

NAMES = ("app", "celery", "application")
"""Variables that are looked at first when ``[engine] app`` names none."""


def load_app(settings: Settings) -> Engine:
    """Returns the app that ``[engine] app`` names, with these settings and all its task modules imported.

    The current directory is on ``sys.path``, as with ``python -m``. Called in the template, in each child with
    ``preload = false``, and by ``engine check``, ``send`` and ``result``. Raises ConfigError.
    """
    spec = settings.engine.app
    if not spec:
        raise ConfigError('no app: write app = "package.module" under [engine], or give --app package.module')
    app = find_app(spec)
    app.configure(settings)
    for module in settings.engine.include:
        _import(module, "[engine] include")
    _import_tasks(app)
    return app


def find_app(spec: str) -> Engine:
    """Imports the module of "package.module" or "package.module:variable" and returns its app, as the code made it.
    Raises ConfigError."""
    _current_directory_first()
    name, _, variable = spec.partition(":")
    return _find(_import(name, "[engine] app"), variable, spec)


def told(error: BaseException) -> str:
    """Returns what a user's module raised: ``myapp/tasks.py:3: ImportError: no module named 'yamll'``. One line, unless
    the engine itself has more to say."""
    frames = _frames(error)
    place = f"{_at(frames[-1])}: " if frames else ""
    text = str(error) if isinstance(error, EngineError) else " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        place, text = f"{_shown(error.filename)}:{error.lineno}: ", error.msg
    if isinstance(error, ModuleNotFoundError):
        text += leftovers.missing(error, frames[-1].line if frames else None)
    importers = [_at(frame) for frame in frames if frame.name == "<module>" and f"{_at(frame)}: " != place]
    chain = f" (imported by {', '.join(reversed(importers))})" if importers else ""
    first, newline, rest = text.partition("\n")
    if chain and first.endswith(":"):
        first, chain = first.removesuffix(":"), f"{chain}:"
    return f"{place}{type(error).__name__}{f': {first}' if first else ''}{chain}{newline}{rest}"


def _refused(setting: str, error: BaseException) -> ConfigError:
    """Returns the error for a module that cannot be imported; prints its traceback when that is asked for, as this may
    be a process that can only pass one line on."""
    if debugging():
        traceback.print_exception(error)
        return ConfigError(f"{setting}: {told(error)}")
    text = told(error)
    hint = "; ENGINE_DEBUG=1 shows the traceback" if len(_frames(error)) > 1 and "\n" not in text else ""
    return ConfigError(f"{setting}: {text}{hint}")


def _import(name: str, setting: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(f"{setting}: {_no_module(error.name, name)}") from error
        raise _refused(setting, error) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever their module raises is told as its error
        raise _refused(setting, error) from None


def _import_tasks(app: Engine) -> None:
    try:
        app.import_tasks()
    except ModuleNotFoundError as error:
        if error.name is not None and not _theirs(error):
            raise ConfigError(f"include: {_no_module(error.name, error.name)}") from None
        raise _refused("include", error) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever their module raises is told as its error
        raise _refused("include", error) from None


def _find(module: ModuleType, variable: str, spec: str) -> Engine:
    if variable:
        found = getattr(module, variable, None)
        if found is None:
            apps = [name for name, value in vars(module).items() if isinstance(value, Engine)]
            hint = did_you_mean(variable, apps) or did_you_mean(variable, vars(module))
            raise ConfigError(f"[engine] app: {spec}: {_shown(_file(module))} has no {variable!r}{hint}")
        if not isinstance(found, Engine):
            raise ConfigError(f"[engine] app: {spec} is no Engine, but of type {type(found).__name__}")
        return found
    engines = {name: value for name, value in vars(module).items() if isinstance(value, Engine)}
    for name in NAMES:
        if name in engines:
            return engines[name]
    if len({id(app) for app in engines.values()}) == 1:
        return next(iter(engines.values()))
    if engines:
        names = ", ".join(engines)
        raise ConfigError(f'[engine] app: {spec} has {names}: write which one: "{spec}:{next(iter(engines))}"')
    raise ConfigError(f"[engine] app: {_shown(_file(module))} has no Engine: write app = Engine(...) there")


def _no_module(missing: str, name: str) -> str:
    where = f"the current directory is {os.getcwd()}"
    if missing != name:
        return f"no module {missing!r} (of {name!r}; {where})"
    parent, _, last = name.rpartition(".")
    hint = did_you_mean(last, _siblings(parent))
    return f"no module {name!r}{hint} ({where})"


def _siblings(parent: str) -> list[str]:
    """Names of the modules in the package ``parent``, or in the current directory."""
    folders = list(getattr(sys.modules.get(parent), "__path__", ())) if parent else [os.getcwd()]
    names = [entry for folder in folders if os.path.isdir(folder) for entry in os.listdir(folder)]
    return [name.removesuffix(".py") for name in names if name.endswith(".py") or "." not in name]


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The way to the error, without Python's own: through files of the user's, if it came through any."""
    return _theirs(error) or _python_frames(error)


def _theirs(error: BaseException) -> list[traceback.FrameSummary]:
    not_theirs = folders_of_others()
    return [f for f in _python_frames(error) if not os.path.realpath(f.filename).startswith(not_theirs)]


def _python_frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_import(frame.filename)]


def _at(frame: traceback.FrameSummary) -> str:
    return f"{_shown(frame.filename)}:{frame.lineno}"


def folders_of_others() -> tuple[str, ...]:
    """Returns the folders of Python, of installed packages and of the engine's own code."""
    import sysconfig  # late: only errors need it

    folders = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
    engine = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    return tuple(folder + os.sep for folder in (*folders, engine))


def _is_import(filename: str) -> bool:
    return filename.startswith("<frozen") or filename in (__file__, importlib.__file__)


def _shown(filename: str) -> str:
    here = os.getcwd() + os.sep
    return filename.removeprefix(here)


def _file(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__


def _current_directory_first() -> None:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
