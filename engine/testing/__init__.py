"""Help for tests: of tasks (`eager`, `recording`, `worker`, `assert_sent`; README.md here) and of plugins.

What plugins are tested with is in modules of its own: ``transport_suite``, ``results_suite``, ``harness``.
"""

from engine.testing.eager_runs import Clock, Eager, Ran, eager, recording
from engine.testing.sent import Sent, assert_not_sent, assert_sent, sent_by
from engine.testing.workers import Worker, worker

__all__ = [
    "Clock",
    "Eager",
    "Ran",
    "Sent",
    "Worker",
    "assert_not_sent",
    "assert_sent",
    "eager",
    "recording",
    "sent_by",
    "worker",
]
