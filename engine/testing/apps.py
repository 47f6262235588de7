"""Which app a test means."""

from __future__ import annotations

from engine.app import registry
from engine.app.app import Engine
from engine.app.discovery import find_app
from engine.errors import ConfigError


def app_under_test(spec: str = "") -> Engine:
    """Returns the app that ``spec`` names ("package.module:variable"); without one the current app, or a new one where
    there is none. Its task modules are imported. Raises ConfigError, and what they raise."""
    app = find_app(spec) if spec else _current()
    app.import_tasks()
    return app


def _current() -> Engine:
    try:
        found: Engine = registry.current_engine()
    except ConfigError:
        return Engine("test")
    return found
