"""Commands that are broadcast to all workers: JSON, one object each."""

from __future__ import annotations

import msgspec


class Revoke(msgspec.Struct, frozen=True, tag="revoke", tag_field="command"):
    """These tasks must not run. ``terminate``: interrupt the ones that run now."""

    ids: list[str]
    terminate: bool = False


def encode(command: Revoke) -> bytes:
    """Returns the command as JSON."""
    return msgspec.json.encode(command)


def decode(data: bytes) -> Revoke:
    """Reads a command. Raises msgspec.DecodeError (a ValueError) for anything else."""
    return msgspec.json.decode(data, type=Revoke)
