"""engine pause"""

from __future__ import annotations

import click

from engine.cli.options import broker, config_option, examples


@click.command("pause", epilog=examples("engine pause reports"))
@config_option
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
def command(config: str | None, queues: tuple[str, ...]) -> None:
    """Stop fetching from a queue, in all workers. What is claimed already runs; messages go on being accepted."""
    with broker(config) as transport:
        for queue in queues:
            transport.pause(queue, True)
            click.echo(f"{queue} paused: `engine resume {queue}` lets it go on", err=True)
