"""The modules with an app's tasks: which they are, and their import."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from typing import TypeAlias

from engine.errors import ConfigError

Packages: TypeAlias = Iterable[str] | Callable[[], Iterable[str]] | None


class Modules:
    """What ``Engine(include=...)`` and ``autodiscover_tasks`` named."""

    def __init__(self, include: Iterable[str]) -> None:
        self.include = [include] if isinstance(include, str) else list(include)
        self._packages: list[tuple[Packages, str | None]] = []

    def discover(self, packages: Packages, related_name: str | None) -> None:
        """Remembers packages to look for task modules in. None: those of Django's INSTALLED_APPS."""
        self._packages.append((packages, related_name))

    def import_all(self) -> list[str]:
        """Imports all modules and returns their names. A package without such a module is passed over; what a module
        raises is raised."""
        names = list(self.include)
        for packages, related_name in self._packages:
            names += [name for package in _names(packages) for name in _module(package, related_name)]
        found = list(dict.fromkeys(names))
        for name in found:
            importlib.import_module(name)
        return found


def _names(packages: Packages) -> Iterable[str]:
    if packages is None:
        return _django_apps()
    found = packages() if callable(packages) else packages
    return [found] if isinstance(found, str) else found


def _module(package: str, related_name: str | None) -> list[str]:
    if not related_name:
        return [package]
    parent = importlib.import_module(package)
    name = f"{parent.__name__}.{related_name}"
    has_it = hasattr(parent, "__path__") and importlib.util.find_spec(name) is not None
    return [name] if has_it else []


def _django_apps() -> list[str]:
    apps = getattr(sys.modules.get("django.apps"), "apps", None)
    if apps is None:
        raise ConfigError(
            "autodiscover_tasks() without packages looks into Django's apps, and Django is not set up: make the app "
            "with `from engine_django import Engine`, which sets it up; outside of Django name the packages"
        )
    return [config.name for config in apps.get_app_configs()]
