"""Settings and tasks that do not fit each other: where nothing fails by itself, so that nobody would notice."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from engine.app import codecs
from engine.app.app import Engine
from engine.app.config.durations import exact
from engine.app.nearest import did_you_mean
from engine.app.settings import Settings
from engine.errors import ConfigError


def refuse(settings: Settings, app: Engine) -> None:
    """Raises ConfigError for what no worker can mean: a serializer that does not exist, with which nothing can be sent
    or read. Called where the app was imported for a worker."""
    if problems := [*unknown_in_accept(settings), *unknown_serializers(settings, app)]:
        raise ConfigError("; ".join(problems))


def unknown_in_accept(settings: Settings) -> Iterator[str]:
    """Yields a sentence for each serializer in ``[worker] accept`` that does not exist."""
    for name in settings.worker.accept:
        if not codecs.exists(name):
            yield f"[worker] accept: {codecs.unknown(name)}"


def unknown_serializers(settings: Settings, app: Engine) -> Iterator[str]:
    """Yields a sentence for each serializer of tasks that does not exist."""
    tasks: dict[str, list[str]] = {}
    for name, task in sorted(app.tasks.items()):
        if not codecs.exists(task.options.serializer):
            tasks.setdefault(task.options.serializer, []).append(name)
    for serializer, names in tasks.items():
        where = "[tasks] serializer" if serializer == settings.tasks.serializer else f"serializer of {', '.join(names)}"
        yield f"{where}: {codecs.unknown(serializer)}"


def misspelt(settings: Settings, app: Engine) -> Iterator[str]:
    """Yields a sentence for each ``[tasks."name"]`` without such a task: a limit that holds for nothing."""
    names = list(app.tasks)
    for name in settings.task:
        if app.find(name) is None:
            yield f'[tasks."{name}"]: the app has no such task{did_you_mean(name, names)}'


def unaccepted(settings: Settings, app: Engine) -> Iterator[str]:
    """Yields a sentence for each task whose own messages this worker fetches, and would refuse."""
    for name, task in sorted(app.tasks.items()):
        serializer = task.options.serializer
        if serializer not in settings.worker.accept and task.route.queue in settings.worker.queues:
            yield f"{name} is sent as {serializer}, which [worker] accept does not have: it would not run"


def unheard(settings: Settings, app: Engine) -> Iterator[str]:
    """Yields a sentence for what the code says and this worker, which stores results without the code, does not do."""
    said, results = app.given.results.expires, settings.results
    is_asked = not (settings.broker.url and results.url)
    if not is_asked and said != results.expires and "expires" not in results.origins:
        where = f'write expires = "{exact(said)}" under [results]'
        yield f"Engine(result_expires=...) is not heard where the configuration names both URLs: {where}"


def routed_nowhere(settings: Settings, app: Engine) -> Iterator[str]:
    """Yields a sentence for each pattern of ``[routes]`` that fits none of the tasks."""
    for pattern in settings.routes:
        if not any(fnmatchcase(name, pattern) for name in app.tasks):
            yield f'"{pattern}" fits none of the app\'s tasks'


def fetched_elsewhere(settings: Settings, app: Engine) -> Iterator[str]:
    """Yields a sentence for each queue that tasks go to and this worker does not fetch from: another one must."""
    elsewhere: dict[str, list[str]] = {}
    for name, task in sorted(app.tasks.items()):
        if task.route.queue not in settings.worker.queues:
            elsewhere.setdefault(task.route.queue, []).append(name)
    for queue, names in elsewhere.items():
        yield f"{', '.join(names)} go to the queue {queue!r}, from which this worker does not fetch ([worker] queues)"


HARMFUL = (misspelt, unaccepted, unheard)
"""What is a mistake wherever the worker runs: told at its start."""
