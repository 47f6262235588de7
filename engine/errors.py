"""Every exception the engine raises, as one tree.

::

    Exception
     └─ EngineError
         ├─ ConfigError                 a setting, option or file is wrong          (exit status 78)
         │   └─ PluginError             a plugin is missing, ambiguous or malformed (exit status 78)
         ├─ AlreadyRunning              an engine of that name is up                (exit status 78)
         ├─ NotRunning                  no engine of that name answers              (exit status 75)
         ├─ TransportError
         │   ├─ BrokerUnavailable       cannot be reached now; trying again may help
         │   └─ BrokerFull              reached, but refuses writes
         ├─ MessageError                a message that no worker can read
         ├─ SerializationError          a value that the codec cannot carry
         ├─ NotRegistered               no task of that name
         ├─ TimeoutError                (also a builtin TimeoutError) get() waited long enough
         ├─ JoinError                   get() inside a task
         └─ TaskError                   why a task ended other than by its own doing
             ├─ TimeLimitExceeded       the hard limit
             ├─ MemoryLimitExceeded     the memory limit
             ├─ WorkerLostError         its process died
             ├─ TaskRevokedError        revoked or expired
             ├─ MaxRetriesExceededError
             └─ RemoteError             raised there, not importable here
    BaseException
     └─ ControlFlow                     not an Exception: `except Exception` in a task must not swallow these
         ├─ Retry
         ├─ Ignore
         ├─ Reject
         ├─ SoftTimeLimitExceeded       the soft limit
         └─ Interrupted                 shutdown, or revoke(terminate=True)

Every class keeps what it knows in fields and in ``args``, as plain numbers and text, so that it survives a trip through
a result backend. What ``get()`` raises is an ``Exception`` in any case: of a task that ended by `SoftTimeLimitExceeded`
it is one of that class and a `TaskError`.
"""

from __future__ import annotations

import builtins


class EngineError(Exception):
    """The root of all errors of the engine."""


class ConfigError(EngineError):
    """A setting, option or file is wrong. The message names the place and what to write instead."""


class PluginError(ConfigError):
    """A plugin is missing, claimed twice, or does not implement its hooks as declared."""


class AlreadyRunning(EngineError):
    """An engine of that name is already running on this host."""


class NotRunning(EngineError):
    """No engine of that name answers on this host."""


class TransportError(EngineError):
    """A broker or result backend did not do what it was asked."""


class BrokerUnavailable(TransportError):
    """The broker or result backend cannot be reached now. The message names it, without its password."""


class BrokerFull(TransportError):
    """The broker was reached but refuses writes (out of memory or disk). Nothing was written."""


class MessageError(EngineError):
    """A message that cannot be read: it is dead-lettered with this text as the reason."""


class SerializationError(EngineError):
    """A value that the codec cannot carry. The message names it and what to pass instead."""


class NotRegistered(EngineError):
    """No task of that name is registered in the worker."""


class TimeoutError(EngineError, builtins.TimeoutError):
    """``AsyncResult.get(timeout=...)`` waited that long and the task has not ended."""


class JoinError(EngineError):
    """``get()`` was called inside a task, which would hold a child while it waits."""


class TaskError(EngineError):
    """Why a task ended, when it was not by its own doing."""


class TimeLimitExceeded(TaskError):
    """The task was killed at its hard limit of ``seconds``."""

    def __init__(self, seconds: float, stack: str | None = None) -> None:
        super().__init__(float(seconds))
        self.seconds = float(seconds)
        self.stack = stack

    def __str__(self) -> str:
        return f"killed at its time limit of {self.seconds:g} s"


class MemoryLimitExceeded(TaskError):
    """The task was killed when it had used ``used`` bytes, ``limit`` being allowed."""

    def __init__(self, used: int, limit: int) -> None:
        super().__init__(int(used), int(limit))
        self.used = int(used)
        self.limit = int(limit)

    def __str__(self) -> str:
        return f"killed at {self.used / 2**20:.0f} MiB, its memory limit being {self.limit / 2**20:.0f} MiB"


class WorkerLostError(TaskError):
    """The process that ran the task died; ``args[0]`` is the cause, such as ``"SIGSEGV"`` or ``"exit status 3"``."""


class TaskRevokedError(TaskError):
    """The task will not run: ``args[0]`` is ``"revoked"`` or ``"expired"``."""


class MaxRetriesExceededError(TaskError):
    """``retry()`` was called on the last run that ``max_retries`` allows."""


class RemoteError(TaskError):
    """An exception raised in a worker whose class cannot be found here; ``args`` are (class path, text)."""

    def __str__(self) -> str:
        return ": ".join(str(arg) for arg in self.args)


class ControlFlow(BaseException):
    """Not an ``Exception``, so that ``except Exception`` in a task does not swallow it."""


class Retry(ControlFlow):
    """Ends this run; the task runs again. Raised by ``Task.retry()``."""


class Ignore(ControlFlow):
    """Ends this run: the message is acknowledged, no state is written."""


class Reject(ControlFlow):
    """Ends this run: the message is dead-lettered with ``reason``, or goes back to its queue (``requeue=True``).
    ``reason`` is a text, or the exception that is to blame."""

    def __init__(self, reason: str | BaseException | None = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        if isinstance(reason, BaseException):
            reason = f"{type(reason).__name__}: {reason}"
        self.reason = reason or "rejected"
        self.requeue = requeue

    def __str__(self) -> str:
        return self.reason


class SoftTimeLimitExceeded(ControlFlow):
    """Raised inside a task at its soft limit of ``seconds``; it may be caught to clean up before the hard limit."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(float(seconds))
        self.seconds = float(seconds)

    def __str__(self) -> str:
        return f"soft time limit of {self.seconds:g} s exceeded"


class Interrupted(ControlFlow):
    """Raised inside a task that must end now; ``reason`` is ``"shutdown"`` or ``"revoked"``."""

    def __init__(self, reason: str = "shutdown") -> None:
        super().__init__(reason)
        self.reason = reason
