"""``memory://``: a broker and result backend in the memory of one process, for tests and for an engine without a file.

- It lives and dies with its process. Under ``engine start`` that is the dispatcher; what is queued goes with it.
- All that open the same URL in one process share one broker; ``memory://other`` is another. A fork starts with none.
- It is the reference for what the contract means: everything happens in one step, under one lock.
"""

from __future__ import annotations

from engine.contract import ResultBackend, Transport, hookimpl
from engine_memory.results import MemoryResults
from engine_memory.transport import MemoryTransport

__all__ = ["MemoryResults", "MemoryTransport", "engine_results", "engine_transport"]


@hookimpl
def engine_transport(scheme: str) -> type[Transport] | None:
    """Answers for the scheme "memory"."""
    return MemoryTransport if scheme == "memory" else None


@hookimpl
def engine_results(scheme: str) -> type[ResultBackend] | None:
    """Answers for the scheme "memory"."""
    return MemoryResults if scheme == "memory" else None
