"""Runs in the dispatcher: the tasks of one template generation."""

from __future__ import annotations

from collections.abc import Sequence

from engine.app.wire import TaskInfo


class Registry:
    """Tasks by name and alias. Not changed once made: any lane may read it."""

    def __init__(self, tasks: Sequence[TaskInfo]) -> None:
        self.tasks = list(tasks)
        self._names: dict[str, TaskInfo] = {}
        for info in tasks:
            for alias in info.aliases:
                self._names.setdefault(alias, info)
        self._names.update({info.name: info for info in tasks})
        self.find = self._names.get
        """Returns the options of a task, by name or alias, or None."""

    def __contains__(self, name: object) -> bool:
        return name in self._names
