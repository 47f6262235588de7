"""What travels: the message (a JSON object), and the envelope a transport carries it in.

A transport reads envelopes and never looks into a message. The dispatcher decodes a message's header; the arguments
stay as they came until a child needs them.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from engine.errors import MessageError

VERSION = 1
MAX_ID = 255
"""Longest task id, in bytes of UTF-8."""
MAX_RETRIES = 2**53
"""Most retries that a message may tell of: a number that every JSON parser and every broker carries."""
DEFAULT_QUEUE = "default"
Priority: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=9)]
"""9 goes first."""


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """One message on its way to a broker: the address, which the transport reads, and the message, which it does not.

    ``due`` is a wall-clock time (seconds since the epoch): None or a time in the past means now. ``priority`` is 0..9,
    9 first. ``expires`` is a wall-clock time after which the message need not be kept (a transport may ignore it: the
    worker checks it too). ``replayed`` marks a message that may have been published before.
    """

    id: str
    body: bytes
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    due: float | None = None
    expires: float | None = None
    replayed: bool = False


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Who publishes, and the number of this publish among all of that producer.

    A producer (one client connection, or one child) sends one batch at a time and repeats it, under the same number,
    until it has an answer. Its numbers grow, and may leave some out. A broker that remembers each producer's last
    number for an hour, and writes it in one step with the messages, drops the repetition: a number that is not greater.
    """

    producer: str
    number: int


class Message(msgspec.Struct, omit_defaults=True, rename={"version": "v"}):
    """The JSON object in an envelope: what to run, with what, and the options that the call set (others are absent).

    Times are seconds since the epoch, durations are seconds. ``args`` and ``kwargs`` are the codec's output: JSON text
    as it is when ``serializer`` is "json", otherwise a JSON string holding base64.
    """

    version: int
    id: str
    task: str
    sent: float
    """Time of the first send. A retry keeps it: records are ordered by (sent, retries, deliveries)."""
    args: msgspec.Raw = msgspec.Raw(b"[]")
    kwargs: msgspec.Raw = msgspec.Raw(b"{}")
    queue: str = DEFAULT_QUEUE
    priority: Priority | None = None
    eta: float | None = None
    expires: float | None = None
    retries: Annotated[int, msgspec.Meta(ge=0, le=MAX_RETRIES)] = 0
    max_retries: int | msgspec.UnsetType | None = msgspec.UNSET
    time_limit: Annotated[float, msgspec.Meta(ge=0)] | None = None
    soft_time_limit: Annotated[float, msgspec.Meta(ge=0)] | None = None
    ignore_result: bool | None = None
    serializer: str = "json"
    origin: str = ""
    root: str | None = None
    parent: str | None = None
    shadow: str | None = None
    headers: dict[str, Any] | None = None
    link: list[dict[str, Any]] | None = None
    link_error: list[dict[str, Any]] | None = None

    def encode(self) -> bytes:
        """Returns the message as JSON (UTF-8)."""
        return _encoder.encode(self)

    def envelope(self) -> Envelope:
        """Returns the message in the envelope that its own options ask for."""
        return Envelope(
            self.id, _encoder.encode(self), self.queue, self.priority or 0, self.eta, self.expires, self.retries > 0
        )

    @staticmethod
    def decode(body: bytes) -> Message:
        """Reads a message's header; the arguments stay raw. Raises MessageError with a reason fit for a dead letter."""
        try:
            message = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MessageError(f"malformed message: {error}") from None
        if message.version != VERSION:
            raise MessageError(f"message version {message.version} is not {VERSION}: upgrade this worker")
        if not message.id or len(message.id.encode()) > MAX_ID:
            raise MessageError(f"malformed message: the id must have 1 to {MAX_ID} bytes")
        return message


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)
