"""The exit statuses of the command `engine`."""

from __future__ import annotations

from engine.errors import AlreadyRunning, BrokerFull, BrokerUnavailable, ConfigError, EngineError, NotRunning

OK = 0
FAILED = 1
USAGE = 64
INTERNAL = 70
TRY_LATER = 75
CONFIGURATION = 78
INTERRUPTED = 130
"""^C, as shells count it."""


def status_of(error: EngineError) -> int:
    """Returns the exit status for an error."""
    if isinstance(error, (ConfigError, AlreadyRunning)):
        return CONFIGURATION
    if isinstance(error, (NotRunning, BrokerUnavailable, BrokerFull)):
        return TRY_LATER
    return FAILED
