"""``redis://``: the broker and result backend for many machines.

Surprising facts this rests on:

- A list of ids and a hash of bodies do what Streams cannot: priorities, delays, giving back. And nothing times out
  while a long task runs.
- A Lua script whose first write frees memory may go on writing when Redis is out of memory. So fetching and settling go
  on while publishing is refused, and the queue drains.
- A script is carried out whole or not at all as others see it, but is not rolled back when a command in it fails.
- The client is hiredis, the parser of redis-py, on a socket of our own: an eighth of the memory and a third of the time
  of a call, and no repetition of a command whose reply was lost.
"""

from __future__ import annotations

from engine.contract import ResultBackend, Transport, hookimpl
from engine_redis.results import RedisResults
from engine_redis.transport import RedisTransport

__all__ = ["RedisResults", "RedisTransport", "engine_results", "engine_transport"]

_SCHEMES = ("redis", "rediss")


@hookimpl
def engine_transport(scheme: str) -> type[Transport] | None:
    """Answers for the schemes "redis" and "rediss", which what follows a "+" belongs to."""
    return RedisTransport if scheme in _SCHEMES else None


@hookimpl
def engine_results(scheme: str) -> type[ResultBackend] | None:
    """Answers for the same schemes."""
    return RedisResults if scheme in _SCHEMES else None
