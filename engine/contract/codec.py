"""The codec contract: how arguments and results become bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class Codec(ABC):
    """Turns values into bytes and back. Stateless; used by any thread of clients and children, never by the
    dispatcher or the supervisor."""

    name: ClassVar[str]
    """As in a message's ``serializer``."""
    is_json: ClassVar[bool]
    """Is the output JSON text? It is then part of the message as it is, otherwise as base64 in a JSON string."""

    @abstractmethod
    def encode(self, value: object) -> bytes:
        """Raises TypeError or ValueError (any text) for a value it cannot carry."""

    @abstractmethod
    def decode(self, data: bytes, type: Any = Any) -> Any:
        """Reads ``data`` as the annotated ``type``. Raises ValueError (msgspec's errors are) if it does not fit."""
