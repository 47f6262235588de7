"""``app.conf``: settings under the names that Celery users know, answered with what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.app.absent import OF_AN_ENGINE, instead
from engine.app.nearest import did_you_mean
from engine.app.old_objects import found_in
from engine.app.old_settings import EAGER, INSTEAD, MOVED, answer, lines
from engine.app.options import SECTION_NAMES
from engine.app.registry import App
from engine.errors import ConfigError

_ARGUMENTS = ("name", "broker", "backend", "include", "routes", "result_expires", *EAGER)
_OTHER_UNITS = ("worker_max_memory_per_child", "task_default_rate_limit", "accept_content")


class Conf:
    """Stands where Celery has its settings. ``task_always_eager`` and ``task_eager_propagates`` can be read and set, as
    tests do. What has a place in the configuration can be read; setting it, and any other name, raises ConfigError that
    says which TOML line to write."""

    def __init__(self, app: App) -> None:
        object.__setattr__(self, "_app", app)

    def update(self, *given: Mapping[str, Any], **names: Any) -> None:
        """Sets several names. Raises one ConfigError for all that have another place, with the lines to write."""
        refused: dict[str, Any] = {}
        for values in (*given, names):
            for name, value in values.items():
                if name in EAGER:
                    setattr(self, name, value)
                else:
                    refused[name] = value
        if refused:
            raise _refusal(*refused.popitem()) if len(refused) == 1 else _refusal_of_all(refused)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a setting that has a place here, else ``default``."""
        return getattr(self, name) if name in self else default

    def __contains__(self, name: object) -> bool:
        return name in MOVED or name in EAGER

    def __setattr__(self, name: str, value: Any) -> None:
        if name in EAGER:
            setattr(self._app, name, bool(value))
            return
        raise _refusal(name, value)

    def __getattr__(self, name: str) -> Any:
        if name in EAGER:
            return getattr(self._app, name)
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in MOVED:
            raise _refusal(name, None)
        section, key = MOVED[name]
        if name in _OTHER_UNITS:
            raise ConfigError(
                f"app.conf.{name}: it is [{section}] {key} here, in other units; app.settings.{section}.{key} reads it"
            )
        return getattr(self._app.resolve("", None) if section == "tasks" else getattr(self._app.settings, section), key)

    __setitem__ = __setattr__
    __getitem__ = __getattr__


def of_an_argument(name: str, value: Any) -> str:
    """Returns what to write in place of an argument that ``Engine(...)`` does not take, to be added to its error."""
    if name not in OF_AN_ENGINE and (name in MOVED or name in INSTEAD):
        return f": {answer(name, value)}"
    return instead(name, OF_AN_ENGINE) or did_you_mean(name, [*_ARGUMENTS, *SECTION_NAMES])


def take_from_object(conf: Conf, given: Any, namespace: str | None) -> None:
    """Does what ``config_from_object`` can do: sets what stays in code. Raises one ConfigError with the TOML lines for
    all else that the object holds, and when it holds nothing that is known."""
    found = found_in(given, namespace)
    if not found:
        raise ConfigError(
            "config_from_object: no setting of Celery's is in it: delete this line; settings are in the TOML file that "
            "-c or ENGINE_CONFIG names"
        )
    conf.update(found)


def _refusal(name: str, value: Any) -> ConfigError:
    return ConfigError(f"app.conf.{name}: {answer(name, value)}")


def _refusal_of_all(refused: Mapping[str, Any]) -> ConfigError:
    sections: dict[str, list[str]] = {}
    others: list[str] = []
    for name, value in refused.items():
        if found := lines(name, value):
            for section, keys in found.items():
                sections.setdefault(section, []).extend(keys)
        else:
            others.append(str(_refusal(name, value)))
    shown = [text for section, keys in sections.items() for text in (f"[{section}]", *dict.fromkeys(keys))]
    if shown:
        shown.insert(0, "app.conf: settings are not in code here; write in the TOML file:")
    return ConfigError("\n".join([*shown, *others]))
