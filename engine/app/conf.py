"""``app.conf``: settings under the names that Celery users know, answered with what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.app.nearest import did_you_mean
from engine.app.old_settings import EAGER, INSTEAD, MOVED, found_in, lines
from engine.app.registry import App
from engine.errors import ConfigError


class Conf:
    """Stands where Celery has its settings. ``task_always_eager`` and ``task_eager_propagates`` can be read and set, as
    tests do; any other name raises ConfigError that says which TOML line to write."""

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
        if name in MOVED:
            section, key = MOVED[name]
            raise ConfigError(f"app.conf.{name}: it is [{section}] {key} here; app.settings.{section}.{key} reads it")
        raise _refusal(name, None)

    __setitem__ = __setattr__
    __getitem__ = __getattr__


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
    if found := lines(name, value):
        section, keys = found
        shown = " ".join([f"[{section}]", *keys]) if len(keys) == 1 else "\n".join(["", f"[{section}]", *keys])
        return ConfigError(f"app.conf.{name}: settings are not in code here; write in the TOML file: {shown}")
    if name in INSTEAD:
        return ConfigError(f"app.conf.{name}: {INSTEAD[name]}")
    if name in MOVED:
        section, key = MOVED[name]
        return ConfigError(f"app.conf.{name}: leave it out: without the line, [{section}] {key} has its default")
    hint = did_you_mean(name, [*MOVED, *INSTEAD, *EAGER])
    return ConfigError(f"app.conf.{name}: there is no such setting{hint or '; docs/configuration.md lists all'}")


def _refusal_of_all(refused: Mapping[str, Any]) -> ConfigError:
    sections: dict[str, list[str]] = {}
    others: list[str] = []
    for name, value in refused.items():
        if found := lines(name, value):
            sections.setdefault(found[0], []).extend(found[1])
        else:
            others.append(str(_refusal(name, value)))
    shown = [text for section, keys in sections.items() for text in (f"[{section}]", *dict.fromkeys(keys))]
    if shown:
        shown.insert(0, "app.conf: settings are not in code here; write in the TOML file:")
    return ConfigError("\n".join([*shown, *others]))
