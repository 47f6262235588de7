"""engine revoke"""

from __future__ import annotations

import time

import click

from engine.cli.options import DURATION, broker, config_option
from engine.errors import TransportError

KEPT = 30 * 86400.0
"""Seconds for which a revocation is kept unless ``--for`` says otherwise."""


@click.command("revoke")
@config_option
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--for", "kept", type=DURATION, default=KEPT, help="How long it is remembered (default: 30d).")
def command(config: str | None, ids: tuple[str, ...], kept: float) -> None:
    """See to it that tasks do not run: queued, delayed and retrying ones, also while no worker is up.

    A task that runs goes on; AsyncResult.revoke(terminate=True) interrupts it.
    """
    with broker(config) as transport:
        if not transport.capabilities.revokes:
            raise TransportError(f"{type(transport).__name__} does not record revocations")
        found = {message.id: message for message in transport.revoke(ids, time.time() + kept)}
    for id in ids:
        where = f"was {found[id].place} in {found[id].queue}, and is removed" if id in found else "will not run"
        click.echo(f"{id} revoked: {where}", err=True)
