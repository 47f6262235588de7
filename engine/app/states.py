"""The states a task can be in, as `AsyncResult.state` names them. Others are a task's own (``update_state``)."""

from __future__ import annotations

from engine.contract.results import FAILURE, FINAL_STATES, PENDING, RETRY, REVOKED, STARTED, SUCCESS

READY_STATES = FINAL_STATES
"""A task in one of these has ended."""
UNREADY_STATES = frozenset({PENDING, STARTED, RETRY})
"""A task in one of these has not ended (nor has one in a state of its own)."""
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
"""The result of a task in one of these is an exception."""

__all__ = [
    "EXCEPTION_STATES",
    "FAILURE",
    "FINAL_STATES",
    "PENDING",
    "READY_STATES",
    "RETRY",
    "REVOKED",
    "STARTED",
    "SUCCESS",
    "UNREADY_STATES",
]
