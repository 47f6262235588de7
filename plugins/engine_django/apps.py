"""What Django starts when ``engine_django`` is in INSTALLED_APPS."""

from __future__ import annotations

import importlib

from django.apps import AppConfig

from engine.app.registry import current_engine
from engine.errors import ConfigError
from engine_django.engine import Engine


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
