"""engine queues"""

from __future__ import annotations

import click
import msgspec

from engine.cli import output
from engine.cli.options import broker, config_option, json_option


@click.command("queues")
@config_option
@json_option
@click.argument("names", metavar="[QUEUE]...", nargs=-1)
def command(config: str | None, as_json: bool, names: tuple[str, ...]) -> None:
    """How many messages are in each queue: ready, delayed, claimed by a worker, dead.

    Without QUEUE: all queues of the broker that have any.
    """
    with broker(config) as transport:
        counts = transport.counts(names or None)
    if as_json:
        output.as_json({queue: msgspec.to_builtins(count) for queue, count in counts.items()})
        return
    output.table(
        ("QUEUE", "READY", "DELAYED", "CLAIMED", "DEAD", ""),
        [
            (
                queue,
                count.ready,
                count.delayed,
                count.claimed,
                count.dead,
                output.state("paused") if count.paused else "",
            )
            for queue, count in sorted(counts.items())
        ],
    )
