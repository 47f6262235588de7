"""Everything a plugin may import: the contract between the engine and what plugs into it.

``transport`` and ``results`` hold what to implement, ``message`` what is carried, ``codec`` how values become bytes,
``events`` what observers hear, ``hookspecs`` how the engine finds a plugin.
"""

from engine.contract.codec import Codec
from engine.contract.events import Event
from engine.contract.hookspecs import hookimpl
from engine.contract.message import Batch, Envelope, Message
from engine.contract.results import Body, Failure, Record, ResultBackend
from engine.contract.transport import (
    Ack,
    Again,
    CannotTell,
    Capabilities,
    Consumer,
    Dead,
    DeadLetter,
    Delivery,
    Found,
    QueueCounts,
    Reconciled,
    Release,
    Scheduled,
    Settlement,
    TakenOver,
    Transport,
    Worker,
)

__all__ = [
    "Ack",
    "Again",
    "Batch",
    "Body",
    "CannotTell",
    "Capabilities",
    "Codec",
    "Consumer",
    "Dead",
    "DeadLetter",
    "Delivery",
    "Envelope",
    "Event",
    "Failure",
    "Found",
    "Message",
    "QueueCounts",
    "Reconciled",
    "Record",
    "Release",
    "ResultBackend",
    "Scheduled",
    "Settlement",
    "TakenOver",
    "Transport",
    "Worker",
    "hookimpl",
]
