"""What an app still has of Celery's after it was ported: nothing of that runs here, and nothing else would say so."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from engine.app.absent import EXPORTS, instead

_PACKAGES = ("celery", "kombu")
_PAGE = "docs/celery.md says what to write instead"
_IMPORT = re.compile(r"(?:from|import)\s+celery\.(\w+)")


def leftovers(not_theirs: tuple[str, ...]) -> Iterator[str]:
    """Yields a sentence for each imported module with names of Celery's in it. ``not_theirs`` are folders of modules
    that are passed over: Python's, and of installed packages."""
    if not any(name in sys.modules for name in _PACKAGES):
        return
    here = os.getcwd() + os.sep
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and not os.path.realpath(path).startswith(not_theirs) and (names := _celerys(vars(module))):
            text = f"{', '.join(sorted(names))} of Celery's: nothing of that runs here; {_PAGE}"
            yield f"{path.removeprefix(here)} still uses {text}"


def missing(error: ModuleNotFoundError, line: str | None) -> str:
    """Returns what to write in place of the import in ``line``, if it failed for want of Celery; else ""."""
    if (error.name or "").partition(".")[0] not in _PACKAGES:
        return ""
    found = _IMPORT.match((line or "").strip())
    return (instead(found[1], EXPORTS) if found else "") or f": {_PAGE}"


def _celerys(names: Mapping[str, Any]) -> list[str]:
    return [name for name, value in list(names.items()) if _home(value).partition(".")[0] in _PACKAGES]


def _home(value: Any) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    # Celery's proxies make an app when they are asked for an attribute: of an object, its class is looked at.
    found = value.__module__ if isinstance(value, (type, FunctionType)) else type(value).__module__
    return found if isinstance(found, str) else ""
