"""engine purge"""

from __future__ import annotations

import click

from engine.cli import output
from engine.cli.options import broker, config_option, examples


@click.command("purge", epilog=examples("engine purge reports --yes"))
@config_option
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(config: str | None, queues: tuple[str, ...], yes: bool) -> None:
    """Delete the ready and delayed messages of a queue, for good. Claimed messages and dead letters stay."""
    with broker(config) as transport:
        if not yes:
            counts = transport.counts(queues)
            waiting = {queue: counts[queue].ready + counts[queue].delayed if queue in counts else 0 for queue in queues}
            listed = ", ".join(f"{queue} ({count})" for queue, count in waiting.items())
            click.confirm(f"Delete the messages that wait in {listed}?", abort=True, err=True)
        for queue in queues:
            click.echo(f"{output.counted(transport.purge(queue), 'message')} of {queue} deleted", err=True)
