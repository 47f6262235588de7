"""What Django starts when ``engine_django`` is in INSTALLED_APPS."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.signals import setting_changed

from engine.app.registry import current_engine
from engine.errors import ConfigError
from engine_django.engine import Engine
from engine_django.leftovers import leftovers


class EngineConfig(AppConfig):  # type: ignore[misc] # Django has no types
    """Gives Django's processes the app that ``delay`` of shared tasks goes through."""

    name = "engine_django"
    verbose_name = "Engine"

    def ready(self) -> None:
        """Called by Django when all apps are loaded. Raises ConfigError for mistakes in ``settings.ENGINE``."""
        try:
            app = current_engine()
        except ConfigError:
            app = importlib.import_module("engine_django.app").app
            app.set_current()
        if isinstance(app, Engine):
            app.bridge()
            self._follow = partial(_follow, app)
            setting_changed.connect(self._follow)
        checks.register(_leftovers)


def _follow(app: Engine, *, setting: str, **_: Any) -> None:
    app.follow(setting)


def _leftovers(**_: Any) -> list[checks.Warning]:
    found = leftovers(settings)
    return [
        checks.Warning(f"settings.{name} is not read by the engine", hint, id="engine.W001") for name, hint in found
    ]
