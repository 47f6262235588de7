"""``@app.task`` and ``@shared_task``: from a function and options to a task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload

from engine.app import registry
from engine.app.options import TASK_NAMES, TaskOptions, check_names, code_of, section_of
from engine.app.registry import App
from engine.app.task import Definition, Task
from engine.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

_INHERITED = TASK_NAMES - {"name", "aliases", "base", "bind"}
"""The options that a base class may set as class attributes."""

if TYPE_CHECKING:

    class AsyncTask(Task[P, R]):
        """The task of an ``async def`` function, for type checkers: called as a function it gives a coroutine."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """Calls the function."""


class Decorate(Protocol):
    """What ``@app.task(...)`` returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class DecorateBound(Protocol):
    """What ``@app.task(bind=True, ...)`` returns: the function's first parameter is the task.

    Of a function with ``**kwargs`` a type checker takes the first parameter off only when it is positional-only:
    ``def work(self: Task[..., Any], /, **kwargs: str)``.
    """

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class Declares(Protocol):
    """The type of ``app.task`` and ``shared_task``, with all the ways to use them."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> DecorateBound: ...
    @overload
    def __call__(self, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Decorate: ...


def declare(function: Any, options: Mapping[str, Any], app: App | None, add: Callable[[Task[..., Any]], Any]) -> Any:
    """Makes the task of ``function``, or without one the decorator that does; ``add`` registers it.

    Raises TypeError for an unknown option, ConfigError for a value that does not fit or a name that is taken.
    """
    check_names(options, TASK_NAMES, "task")
    if function is None:
        return lambda given: declare(given, options, app, add)
    if not callable(function):
        raise TypeError(f"@task decorates a function, not {type(function).__name__}; options are given by name")
    task = make(function, options, app)
    add(task)
    return task


def make(function: Callable[..., Any], options: Mapping[str, Any], app: App | None) -> Task[..., Any]:
    """Makes the task of a function, without registering it. Raises as `declare`, and TypeError for ``bind=True`` on a
    function that has no parameter for the task."""
    base = options.get("base") or Task
    if not (isinstance(base, type) and issubclass(base, Task)):
        raise TypeError(f"base must be a subclass of engine.Task, got {base!r}")
    name = options.get("name") or name_of(function, app)
    if not isinstance(name, str):
        raise TypeError(f"name must be text, not {name!r}")
    where = f"task {name}"
    given = {**_class_options(base), **options}
    if given.get("bind") and not _takes_an_argument(function):
        raise TypeError(
            f"{where}: bind=True gives the task as the first argument, and the function takes none: "
            f"write def {function.__name__}(self, ...), or leave bind=True out"
        )
    return base.define(function, _definition(name, given), app)


def _definition(name: str, given: Mapping[str, Any]) -> Definition:
    where = f"task {name}"
    return Definition(
        name=name,
        bind=bool(given.get("bind", False)),
        aliases=_names(given.get("aliases", ()), where),
        section=section_of(given, where),
        code=code_of(given, where),
    )


def _names(given: Any, where: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{where}: aliases must be a list of names, not {given!r}")
    return tuple(names)


def make_of_class(given: Any, app: App | None) -> Task[..., Any]:
    """Makes the task of a class with a method ``run``, or of an instance of one, without registering it. Raises as
    `declare`, and TypeError for a class without ``run``."""
    kind = given if isinstance(given, type) else type(given)
    if not issubclass(kind, Task) or not callable(getattr(kind, "run", None)):
        raise TypeError(f"register_task takes a subclass of engine.Task that has def run(self, ...), not {given!r}")
    definition = _definition(vars(kind).get("name") or name_of(kind, app), {**_class_options(kind), "bind": True})
    task = kind.define(kind.run, definition, app, given if isinstance(given, Task) else None)
    task.__name__, task.__doc__ = kind.__name__, kind.__doc__
    return task


def name_of(function: Callable[..., Any], app: App | None) -> str:
    """Returns the name that a task has when it is given none: ``module.function``, in ``__main__`` ``app.function``.
    Raises TypeError for a callable without a name."""
    name = getattr(function, "__name__", None)
    module = getattr(function, "__module__", None)
    if name is None or module is None:
        raise TypeError(f"{function!r} has no name of its own: give one, @app.task(name=...)")
    if module == "__main__":
        module = app.name if app is not None else registry.current_name() or module
    return f"{module}.{name}"


def _takes_an_argument(function: Callable[..., Any]) -> bool:
    """May the function be called with one positional argument? Its code tells: a signature would evaluate annotations,
    which may name what is defined later in the module."""
    code = getattr(function, "__code__", None)
    if code is None:
        return True  # a built-in function, or an object that can be called: its first call will tell
    is_taken = inspect.ismethod(function)
    return code.co_argcount > is_taken or bool(code.co_flags & inspect.CO_VARARGS)


def check_free(task: Task[..., Any], find: Callable[[str], Task[..., Any] | None]) -> None:
    """Raises ConfigError when one of the task's names belongs to a different function."""
    for name in (task.name, *task.aliases):
        other = find(name)
        if other is not None and not _is_same(task, other):
            raise ConfigError(
                f"two tasks are called {name!r}: {_place(other.function)} and {_place(task.function)}: "
                "give one of them another name="
            )


def _is_same(task: Task[..., Any], other: Task[..., Any]) -> bool:
    return task.function is other.function or _place(task.function) == _place(other.function)


def _place(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
    # Typed in at a prompt or in a notebook, a function is replaced by its next version.
    if code is None or code.co_filename.startswith("<"):
        return name
    return f"{name} ({code.co_filename}:{code.co_firstlineno})"


def _class_options(base: type[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in reversed(base.__mro__[: base.__mro__.index(Task)]):
        found.update({name: value for name, value in vars(kind).items() if name in _INHERITED})
    return found
