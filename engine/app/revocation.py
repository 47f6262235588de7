"""Revoking tasks: recorded at the broker, told to the workers that are up, written down for those that were found."""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.app import commands, ends
from engine.app.client import Client
from engine.app.relay import RelayResults
from engine.contract.results import Record
from engine.contract.transport import Found, Transport
from engine.errors import ConfigError, TransportError

KEPT = 30 * 86400.0
"""Seconds for which a revocation is remembered at least: a task may be scheduled that far ahead."""


def revoke(client: Client, ids: Sequence[str], terminate: bool, expires: float) -> None:
    """Revokes tasks by their ids. Raises BrokerUnavailable; TransportError where the broker cannot record it."""
    until = time.time() + max(KEPT, expires)
    found = client.broker(lambda transport: _revoke(transport, list(ids), until, terminate))
    records = [record for message in found if (record := ends.removed(message)) is not None]
    if records:
        _store(client, records)


def _revoke(transport: Transport, ids: list[str], until: float, terminate: bool) -> Sequence[Found]:
    if not transport.capabilities.revokes:
        raise TransportError("this broker does not record revocations: use expires= instead")
    found = transport.revoke(ids, until)
    if transport.capabilities.broadcasts:
        transport.broadcast(commands.encode(commands.Revoke(ids, terminate)))
    return found


def _store(client: Client, records: list[Record]) -> None:
    """Writes the records, unless a dispatcher is between: it has done so when it was asked to revoke."""
    try:
        with client.results() as backend:
            if not isinstance(backend, RelayResults):
                backend.store(records)
    except ConfigError:
        # No result backend: there is nothing to write to.
        return
