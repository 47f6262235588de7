"""engine queues"""

from __future__ import annotations

import click
import msgspec

from engine.cli import output
from engine.cli.options import broker, config_option, configuration, examples, json_option
from engine.contract.transport import QueueCounts


@click.command("queues", epilog=examples("engine queues", "engine queues default slow --json"))
@config_option
@json_option
@click.argument("names", metavar="[QUEUE]...", nargs=-1)
def command(config: str | None, as_json: bool, names: tuple[str, ...]) -> None:
    """How many messages are in each queue: ready, delayed, claimed by a worker, dead.

    Without QUEUE: all queues that the broker has, and those that [worker] queues names.
    """
    with broker(config) as transport:
        counts = dict(transport.counts(names or None))
    for queue in names or configuration(config).settings.worker.queues:
        counts.setdefault(queue, QueueCounts())
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
