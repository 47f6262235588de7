"""Settings of Celery's that are still in a Django project's: nothing here reads them, and tests would send for real."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine.app.old_objects import modern
from engine.app.old_settings import EAGER, INSTEAD, MOVED, answer
from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine_django.engine import Engine


def leftovers(settings: Any) -> Iterator[tuple[str, str]]:
    """Yields the name of each setting of Celery's, and what to do about it."""
    for name in dir(settings):
        old = _old_name(name)
        if old in EAGER:
            yield name, f'write it into settings.ENGINE: "{old}": {bool(getattr(settings, name))}'
        elif old in MOVED or old in INSTEAD:
            yield name, answer(old, getattr(settings, name))


def refuse_eager(settings: Any, app: Engine) -> None:
    """Raises ConfigError when Celery's settings ask for tasks to run at once, and the app does not: they would be
    sent."""
    for name in dir(settings):
        old = _old_name(name)
        if old in EAGER and getattr(settings, name) and not getattr(app, old):
            raise ConfigError(
                f'settings.{name} is not read here: write ENGINE = {{..., "{old}": True}}, in a test '
                f'override_settings(ENGINE={{"{old}": True}}), or use the pytest fixture engine_app'
            )


def _old_name(name: str) -> str:
    if not (name.isupper() and name.startswith("CELERY")):
        return ""
    found = modern(name)
    return found.removeprefix("celery_")
