"""``amqp://``, ``amqps://``: RabbitMQ 3.10 or later, by pika.

- The server owns the claims: they end with the connection that took them, at once, whether the tasks run on or not.
  What it delivers a second time may still run, and passes a gate (`Delivery.gate`).
- Publish and acknowledge are two steps: a retry is published and confirmed, then the old delivery is acknowledged.
- A give-back counts as a delivery at the server; so a clean one is a copy to the front of the queue.
- A queue of the engine is several of RabbitMQ's, a delay is a ladder of queues.
- pika's objects belong to one thread, so each connection has its own.

Where is what:

=====================  ===============================================================================
`transport`            `RabbitTransport`, what clients and the command line call
`consumer`             `RabbitConsumer`, what the lanes of a worker call
`session`              a worker's connection: subscriptions, deliveries, claims, acknowledgements
`subscriptions`        to which queues, for how much; `prefetch`: how much is wanted, and what was pushed
`acks`                 which delivery tags to acknowledge for a set of messages
`publisher`            publishing and looking: two connections that are opened again after a loss
`confirms`             a channel in confirm mode: sends in a window, returns when the server has it
`connection`           one connection and the thread that owns it; `channel`: requests and answers
`topology`, `names`    the queues, exchanges and streams, and what they are called
`delay_ladder`         delays
`messages`             a message's properties and headers, both ways
`dead_letters`         listing, replaying and dropping them; `exclusive`: a lock between clients
`streams`, `catalogue` reading a stream exactly; what is known of queues and revocations
`results`              `RabbitResults`, and `result_streams`, what a client knows of them
`address`, `failures`  the URL and its options; what went wrong, as the engine's errors
=====================  ===============================================================================
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
