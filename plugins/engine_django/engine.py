"""An `engine.Engine` that belongs to a Django project."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from engine import Engine as Plain
from engine.app.app import code_settings
from engine.app.discovery import told
from engine.errors import ConfigError
from engine_django.leftovers import refuse_eager

if TYPE_CHECKING:
    from engine.app.settings import Settings

Around: TypeAlias = Callable[[Callable[[], Any]], Any]
_SETTINGS = "DJANGO_SETTINGS_MODULE"
_EAGER = ("task_always_eager", "task_eager_propagates")
_OPERATORS = ("worker", "plugins", "engine", "results", "tasks", "task")


class Engine(Plain):
    """An app whose settings are in Django's: ``ENGINE = {"broker": "redis://...", "acks_late": True}``, with the names
    of the arguments of ``Engine(...)``. Arguments that are given here are stronger; what the operator sets - TOML file,
    environment, command line - is stronger still.

    In a worker it sets Django up, imports the module ``tasks`` of every installed app, closes all database connections
    before children are forked, and looks after them around each task. Django's settings are read when they are first
    needed, so it may be made in a project's ``__init__.py``.
    """

    def __init__(self, name: str | None = None, **given: Any) -> None:
        self._given: Mapping[str, Any] = dict(given)
        self._bridged = False
        super().__init__(name, **given)
        self.autodiscover_tasks()

    def bridge(self) -> None:
        """Takes ``settings.ENGINE`` of Django, once. Raises ConfigError for what is wrong with it."""
        if self._bridged:
            return
        found = {**_engine_settings(), **self._given}
        for name in _EAGER:
            if name in found:
                setattr(self, name, bool(found.pop(name)))
        self._modules.include = list(dict.fromkeys([*self._modules.include, *found.pop("include", ())]))
        places = {name: found.pop(name, None) for name in ("broker", "backend", "routes", "result_expires")}
        try:
            code = code_settings("settings.ENGINE", name=self.name, **places)
            self._give("settings.ENGINE", code, found)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from None
        self._bridged = True
        refuse_eager(_django_settings(), self)

    def follow(self, setting: str) -> None:
        """Takes a changed setting of Django's, as tests change them: of ``ENGINE`` whether tasks run at once. Raises
        ConfigError for a setting of Celery's that asks for it."""
        if setting == "ENGINE":
            found = {**_engine_settings(), **self._given}
            for name in _EAGER:
                setattr(self, name, bool(found.get(name, False)))
        refuse_eager(_django_settings(), self)

    @property
    def settings(self) -> Settings:
        """All settings; Django's ``ENGINE`` is among them."""
        self.bridge()
        return super().settings

    def configure(self, settings: Settings) -> None:
        """As `engine.Engine.configure`; sets Django up."""
        self.bridge()
        _set_up()
        super().configure(settings)

    def import_tasks(self) -> list[str]:
        """Imports the task modules of installed apps too, then makes ready for forking."""
        _set_up()
        from engine_django import connections  # late: Django's settings may not be there when this module is imported

        names = super().import_tasks()
        connections.close_idle()
        theirs = self.around
        self.around = connections.around_task if theirs is None else partial(_both, connections.around_task, theirs)
        return names


def _both(outer: Around, inner: Around, call: Callable[[], Any]) -> Any:
    return outer(partial(inner, call))


def _engine_settings() -> Mapping[str, Any]:
    settings = _django_settings()
    try:
        found = getattr(settings, "ENGINE", {})
    except Exception as error:  # whatever the settings module raises is told as its error
        raise ConfigError(f"{_SETTINGS}={os.environ.get(_SETTINGS)}: {told(error)}") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"settings.ENGINE must be a dict, not {type(found).__name__}")
    for name in _OPERATORS:
        if isinstance(found.get(name), Mapping):
            raise ConfigError(
                f"settings.ENGINE: {name!r} belongs into the worker's TOML file; here are arguments of Engine(...), "
                'such as {"broker": "redis://...", "acks_late": True}'
            )
    return found


def _django_settings() -> Any:
    try:
        from django.conf import settings  # late: Django is an extra
    except ModuleNotFoundError as error:
        raise ConfigError("engine_django needs Django: pip install 'prefork-engine[django]'") from error
    if not settings.configured and not os.environ.get(_SETTINGS):
        raise ConfigError(f"{_SETTINGS} is not set: name the project's settings in it, such as mysite.settings")
    return settings


def _set_up() -> None:
    """Sets Django up, unless it is. Raises ConfigError for what an app of the project raises."""
    _django_settings()
    import django  # late: Django is an extra
    from django.apps import apps  # late: as above

    if apps.ready:
        return
    try:
        django.setup()
    except (Exception, SystemExit) as error:  # whatever their apps raise is told as their error
        raise ConfigError(f"django.setup(): {told(error)}") from error
