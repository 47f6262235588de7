"""engine resume"""

from __future__ import annotations

import click

from engine.cli.options import broker, config_option, examples


@click.command("resume", epilog=examples("engine resume reports"))
@config_option
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
def command(config: str | None, queues: tuple[str, ...]) -> None:
    """Let a paused queue go on."""
    with broker(config) as transport:
        for queue in queues:
            transport.pause(queue, False)
            click.echo(f"{queue} goes on", err=True)
