"""``amqp://``, ``amqps://``: RabbitMQ 3.10 or later, by pika.

- The server owns the claims: they end with the connection that took them, at once, whether the tasks run on or not.
  What it delivers a second time may still run, and passes a gate (`Delivery.gate`).
- Publish and acknowledge are two steps: a retry is published and confirmed, then the old delivery is acknowledged.
- A give-back counts as a delivery at the server; so a clean one is a copy to the front of the queue.
- A queue of the engine is several of RabbitMQ's, a delay is a ladder of queues: see `engine_rabbitmq.names`.
- pika's objects belong to one thread, so each connection has its own: see `engine_rabbitmq.loop`.
"""

from __future__ import annotations

from engine.contract import ResultBackend, Transport, hookimpl
from engine_rabbitmq.results import RabbitResults
from engine_rabbitmq.transport import RabbitTransport

__all__ = ["RabbitResults", "RabbitTransport", "engine_results", "engine_transport"]


@hookimpl
def engine_transport(scheme: str) -> type[Transport] | None:
    """Answers for the schemes "amqp" and "amqps"."""
    return RabbitTransport if scheme in ("amqp", "amqps") else None


@hookimpl
def engine_results(scheme: str) -> type[ResultBackend] | None:
    """Answers for the schemes "rpc", "amqp" and "amqps"."""
    return RabbitResults if scheme in ("rpc", "amqp", "amqps") else None
