"""``shared_task`` and ``current_app``: for a package that has no app of its own."""

from __future__ import annotations

from typing import Any, cast

from engine.app import registry
from engine.app.app import Engine
from engine.app.decorator import Declares, check_free, declare
from engine.app.task import Task


def _shared_task(function: Any = None, /, **options: Any) -> Any:
    """Makes a task of the current `Engine`: the configured one under ``engine start``, else the one given to
    ``app.set_current()``, else the first made in the process. It binds at its first use. Options as ``@app.task``."""
    return declare(function, options, None, _add)


def _add(task: Task[..., Any]) -> None:
    check_free(task, registry.find)
    registry.share(task)


class _CurrentApp:
    """Has all that the current `Engine` has. Raises ConfigError as long as there is none."""

    def __getattr__(self, name: str) -> Any:
        return getattr(registry.current_engine(), name)

    def __repr__(self) -> str:
        return f"<current app: {registry.current_name() or 'none'}>"


shared_task = cast(Declares, _shared_task)
current_app = cast(Engine, _CurrentApp())
"""Stands for the current `Engine`: the one that shared tasks bind to."""
