"""Which options hold for a task, and where it is sent."""

from __future__ import annotations

from fnmatch import fnmatchcase

from engine.app import codecs
from engine.app.options import Resolved, resolve
from engine.app.sending import Route
from engine.app.settings import Settings, TaskSection


def options_of(settings: Settings, name: str, own: TaskSection | None, defaults: TaskSection) -> Resolved:
    """Returns the options: ``[tasks."name"]`` > ``own`` (the decorator's) > ``[tasks]`` > ``Engine()`` > built in."""
    return resolve([settings.task.get(name), own, settings.tasks, defaults])


def route_of(settings: Settings, name: str, options: Resolved, own: TaskSection | None) -> Route:
    """Returns where and how a task is sent. Its queue: ``[tasks."name"]`` > ``[routes]`` > the other places."""
    return Route(
        task=name,
        queue=_queue(settings, name) or options.queue,
        priority=options.priority,
        # A plain number: it may go into a message, and a `Duration` does not.
        expires=None if options.expires is None else float(options.expires),
        codec=codecs.find(options.serializer),
        ignore_result=options.ignore_result,
        max_message=int(settings.worker.max_message),
    )


def _queue(settings: Settings, name: str) -> str | None:
    section = settings.task.get(name)
    if section is not None and isinstance(section.queue, str):
        return section.queue
    return next((queue for pattern, queue in settings.routes.items() if fnmatchcase(name, pattern)), None)
