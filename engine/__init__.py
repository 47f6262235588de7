"""A multiprocess prefork worker engine: tasks that are not lost, limits that hold, brokers that are plugins.

::

    from engine import Engine

    app = Engine("shop", broker="sqlite:///engine.db", backend="sqlite:///engine.db")


    @app.task
    def add(x: int, y: int) -> int:
        return x + y


    add.delay(1, 2).get(timeout=10)
"""

from typing import TYPE_CHECKING, NoReturn

from engine.app import states
from engine.app.absent import EXPORTS, instead
from engine.app.app import Engine
from engine.app.context import current_task
from engine.app.results import AsyncResult, EagerResult
from engine.app.shared import current_app, shared_task
from engine.app.signature import Signature
from engine.app.task import Task
from engine.errors import (
    AlreadyRunning,
    BrokerFull,
    BrokerUnavailable,
    ConfigError,
    ControlFlow,
    EngineError,
    Ignore,
    Interrupted,
    JoinError,
    MaxRetriesExceededError,
    MemoryLimitExceeded,
    MessageError,
    NotRegistered,
    NotRunning,
    PluginError,
    Reject,
    RemoteError,
    Retry,
    SerializationError,
    SoftTimeLimitExceeded,
    TaskError,
    TaskRevokedError,
    TimeLimitExceeded,
    TimeoutError,  # noqa: A004 - derives from the builtin
    TransportError,
    WorkerLostError,
)

__version__ = "0.1.0"

if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        text = f"cannot import name {name!r} from 'engine'{instead(name, EXPORTS)}"
        raise ImportError(text, name=__name__) if name in EXPORTS else AttributeError(text)


__all__ = [
    "AlreadyRunning",
    "AsyncResult",
    "BrokerFull",
    "BrokerUnavailable",
    "ConfigError",
    "ControlFlow",
    "EagerResult",
    "Engine",
    "EngineError",
    "Ignore",
    "Interrupted",
    "JoinError",
    "MaxRetriesExceededError",
    "MemoryLimitExceeded",
    "MessageError",
    "NotRegistered",
    "NotRunning",
    "PluginError",
    "Reject",
    "RemoteError",
    "Retry",
    "SerializationError",
    "Signature",
    "SoftTimeLimitExceeded",
    "Task",
    "TaskError",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "TimeoutError",
    "TransportError",
    "WorkerLostError",
    "__version__",
    "current_app",
    "current_task",
    "shared_task",
    "states",
]
