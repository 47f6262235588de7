"""Exceptions as data, and back: whatever an exception is made of, describing it never fails and never grows large."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import Any

import msgspec

from engine.contract.results import Body, Failure
from engine.errors import ControlFlow, RemoteError, TaskError

TEXT_MAX = 64 * 1024
"""Longest text kept of an exception, and of its traceback, in characters."""
FRAMES_MAX = 200
"""A traceback with more frames is cut to its first and last ones before it is made into text."""
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_PLAIN = (str, int, float, bool, type(None))


class ExceptionInfo:
    """What hooks get as ``einfo``: the exception and the text of its traceback."""

    __slots__ = ("exception", "traceback", "type")

    def __init__(self, exception: BaseException, traceback: str) -> None:
        self.exception = exception
        self.type = type(exception)
        self.traceback = traceback

    def __str__(self) -> str:
        return self.traceback


def describe(error: BaseException) -> Failure:
    """Returns an exception as data. Never raises an Exception, whatever its ``__str__`` does."""
    kind = type(error)
    return Failure(
        type=_text_of(lambda: kind.__qualname__, "Exception"),
        module=_text_of(lambda: kind.__module__, "builtins"),
        text=text_of(error),
        args=_plain_args(error),
    )


def text_of(error: BaseException) -> str:
    """Returns ``str(error)``, capped, or a stand-in when that fails."""
    return cut(_text_of(lambda: str(error), "<its __str__ failed>"), TEXT_MAX)


def summary(failure: Failure) -> str:
    """Returns "ValueError: text" in one line of at most 1,000 characters, for reasons and logs."""
    text = f"{failure.type}: {failure.text}" if failure.text else failure.type
    return cut(" ".join(text.split()), 1000)


def traceback_text(error: BaseException) -> str:
    """Returns the traceback as text, without the engine's own frames at its top, head and tail of it if it is long."""
    tb = _without_engine(error.__traceback__)
    try:
        lines = _deep_lines(error, tb) if _is_deep(tb) else traceback.format_exception(type(error), error, tb)
        return cut("".join(lines), TEXT_MAX)
    except Exception as problem:  # noqa: BLE001 - formatting runs the code of the user's exceptions
        return f"(the traceback cannot be shown: {type(problem).__name__})"


def exc_info(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Returns what log records carry of an exception, for handlers that group by it; without the engine's own frames at
    its top."""
    return type(error), error, _without_engine(error.__traceback__)


def sentence(error: BaseException) -> str:
    """Returns what an exception says, with its notes, and without its stack."""
    return "\n".join([summary(describe(error)), *getattr(error, "__notes__", ())])


def cut(text: str, most: int) -> str:
    """Returns the text, with its middle left out when it is longer than ``most`` characters. What UTF-8 cannot carry is
    escaped."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]}\n... [{len(text) - 2 * half} characters left out] ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()


def rebuild(body: Body) -> BaseException:
    """Returns the exception that a record's body tells of: of its own class if a module that is imported here already
    has it, else a `RemoteError` with the same text. Nothing is ever imported. The traceback goes along as a note."""
    failure = body.failure or Failure("Exception", "builtins", "")
    error = _construct(failure) or RemoteError(f"{failure.module}.{failure.type}", failure.text)
    if body.traceback:
        error.add_note(f"In the worker:\n{body.traceback.rstrip()}")
    return error


def bearable(error: BaseException) -> BaseException:
    """Returns what ``get()`` raises: the exception, or one that is easier on the caller. In place of what would end its
    process (SystemExit, KeyboardInterrupt) or its coroutine (GeneratorExit, CancelledError) a RemoteError; in place of
    control flow, which no ``except Exception`` of the caller's would catch, one of the same class that is a TaskError
    too."""
    kind = type(error)
    if isinstance(error, ControlFlow) and not isinstance(error, Exception):
        ended = _ended_by(kind, error.args).with_traceback(error.__traceback__)
        for note in getattr(error, "__notes__", ()):
            ended.add_note(note)
        return ended
    if isinstance(error, Exception) or kind.__module__ not in ("builtins", "asyncio.exceptions"):
        return error
    remote = RemoteError(f"{kind.__module__}.{kind.__qualname__}", text_of(error))
    remote.__cause__ = error
    return remote


def _ended_by(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    return _exception_class(kind)(*args)


def _exception_class(kind: type[BaseException]) -> type[BaseException]:
    def again(self: BaseException) -> tuple[Any, ...]:
        return _ended_by, (kind, self.args)

    # It goes by the name of the class that it stands for, in tracebacks and in records of tasks that raise it on.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, TaskError), {**names, "__reduce__": again})


def _construct(failure: Failure) -> BaseException | None:
    kind = _find_class(failure.module, failure.type)
    if kind is None:
        return None
    for args in _arguments(failure):
        try:
            error = kind(*args)
            if failure.args is msgspec.UNSET:
                str(error)  # made from its text alone: one that cannot be printed then helps nobody
        except Exception:  # noqa: BLE001 - the class may want other arguments than it kept
            continue
        if isinstance(error, kind):
            return error
    return None


def _arguments(failure: Failure) -> list[list[Any]]:
    found: list[list[Any]] = [] if failure.args is msgspec.UNSET else [msgspec.json.decode(failure.args, type=list)]
    return [*found, [failure.text]]


def _find_class(module: str, path: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _plain_args(error: BaseException) -> msgspec.Raw | msgspec.UnsetType:
    args = error.args
    if not all(type(arg) in _PLAIN for arg in args) or any(type(arg) is str and len(arg) > TEXT_MAX for arg in args):
        return msgspec.UNSET
    try:
        data = msgspec.json.encode(args)
    except (ValueError, OverflowError):
        return msgspec.UNSET
    return msgspec.Raw(data) if len(data) <= 2 * TEXT_MAX else msgspec.UNSET


def _text_of(read: Any, instead: str) -> str:
    try:
        text = read()
        return text if type(text) is str else str.__str__(text)
    except Exception:  # noqa: BLE001 - a hostile __str__ or metaclass may raise anything
        return instead


def _without_engine(tb: TracebackType | None) -> TracebackType | None:
    first = tb
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_HERE):
        tb = tb.tb_next
    return tb if tb is not None else first


def _is_deep(tb: TracebackType | None) -> bool:
    count = 0
    while tb is not None and count <= FRAMES_MAX:
        tb = tb.tb_next
        count += 1
    return count > FRAMES_MAX


def _deep_lines(error: BaseException, tb: TracebackType | None) -> list[str]:
    half = FRAMES_MAX // 2
    return [
        "Traceback (most recent call last):\n",
        *traceback.format_tb(tb, limit=half),
        "  ... [frames left out] ...\n",
        *traceback.format_tb(tb, limit=-half),
        *traceback.format_exception_only(type(error), error),
    ]
