"""The engines of this process, which of them is the current one, and the tasks that belong to whichever that is."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.app.client import Client
    from engine.app.options import Resolved
    from engine.app.sending import Route
    from engine.app.settings import Settings, TaskSection


class App(Protocol):
    """What tasks, signatures and results need of their `Engine`."""

    name: str
    task_always_eager: bool
    task_eager_propagates: bool

    around: Callable[[Callable[[], Any]], Any] | None

    @property
    def settings(self) -> Settings:
        """All settings."""

    @property
    def client(self) -> Client:
        """The connections to broker and result backend."""

    def find(self, name: str) -> Any:
        """Returns the task of that name or alias, or None."""

    def registered(self, name: str) -> Any:
        """Returns the task of that name or alias. Raises NotRegistered."""

    def send_signature(self, signature: Any, options: Mapping[str, Any]) -> Any:
        """Sends a signature with these options; returns its `AsyncResult`."""

    def send_task_object(
        self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Any:
        """Sends a task; returns its `AsyncResult`."""

    def apply(
        self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], throw: bool
    ) -> Any:
        """Runs a task here and now; returns its `EagerResult`."""

    def send_many(self, signatures: Iterable[Any]) -> Any:
        """Sends signatures; returns their `AsyncResult` objects."""

    def revoke(self, ids: Sequence[str], terminate: bool = False) -> None:
        """Revokes tasks."""

    def run_coroutine(self, function: Any, run: Any, args: Any, kwargs: Any) -> Any:
        """Runs an ``async def`` function to its end."""

    def resolve(self, name: str, own: TaskSection | None) -> Resolved:
        """Returns the options that hold for a task."""

    def route(self, name: str, own: TaskSection | None) -> Route:
        """Returns where and how a task is sent; ``own`` are the options of its decorator."""

    def route_to(self, name: str) -> Route:
        """Returns where and how a task of that name or alias is sent, whether it is registered here or not."""


class TaskTable:
    """Tasks by name and alias. Adding takes the same time, however many there are."""

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {}
        """Without aliases."""
        self.by_any_name: dict[str, Any] = {}

    def add(self, task: Any) -> None:
        """Adds a task, in the place of one of its name."""
        replaced = self.by_name.get(task.name)
        if replaced is not None:
            for name in (*replaced.aliases, replaced.name):
                self.by_any_name.pop(name, None)
        self.by_name[task.name] = task
        self.by_any_name.update(dict.fromkeys((*task.aliases, task.name), task))


class _State:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self.first: weakref.ref[Any] | None = None
        self.current: Any = None
        self.shared = TaskTable()


_state = _State()


@contextmanager
def isolated() -> Iterator[None]:
    """Starts with no engines and no shared tasks, and puts back what there was. For tests."""
    kept = dict(vars(_state))
    vars(_state).update(vars(_State()))
    try:
        yield
    finally:
        vars(_state).update(kept)


@contextmanager
def current_kept() -> Iterator[None]:
    """Puts back, in the end, the app that was the current one. For tests."""
    kept = _state.current
    try:
        yield
    finally:
        _state.current = kept


def add(engine: App) -> None:
    """Makes an engine known: the first one of the process is the current one until another is set."""
    with _state.lock:
        _state.engines.add(engine)
        if _state.first is None or _state.first() is None:
            _state.first = weakref.ref(engine)


def set_current(engine: App) -> None:
    """Makes ``engine`` the one that shared tasks bind to."""
    _state.current = engine


def current_engine() -> Any:
    """Returns the current `Engine`. Raises ConfigError when there is none."""
    engine = _state.current or (_state.first() if _state.first is not None else None)
    if engine is None:
        raise ConfigError(
            "there is no Engine yet: import the module that makes it before a shared task is used, such as in the "
            "package's __init__.py, or make one: app = Engine(...); in Django, add 'engine_django' to INSTALLED_APPS"
        )
    return engine


def current_name() -> str | None:
    """Returns the name of the current engine, if there is one."""
    try:
        return str(current_engine().name)
    except ConfigError:
        return None


def share(task: Any) -> None:
    """Adds a task that all engines of the process know."""
    with _state.lock:
        _state.shared.add(task)


def shared() -> TaskTable:
    """Returns the shared tasks."""
    return _state.shared


def find(name: str) -> Any:
    """Returns the task of that name or alias, whichever engine of the process it belongs to; None: there is none."""
    return next((task for engine in list(_state.engines) if (task := engine.find(name)) is not None), None) or (
        _state.shared.by_any_name.get(name)
    )
