"""engine scheduled"""

from __future__ import annotations

import time

import click

from engine.app.config.durations import brief
from engine.cli import output
from engine.cli.options import broker, config_option, examples, json_option
from engine.errors import TransportError


@click.command("scheduled", epilog=examples("engine scheduled --limit 20 --queue reports"))
@config_option
@json_option
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many at most.")
@click.option("--queue", metavar="QUEUE", help="Only those of this queue.")
def command(config: str | None, as_json: bool, limit: int, queue: str | None) -> None:
    """List delayed messages (countdown, eta, retries), soonest first."""
    with broker(config) as transport:
        if not transport.capabilities.lists_scheduled:
            raise TransportError(f"{type(transport).__name__} cannot list delayed messages")
        found = transport.scheduled(limit, queue)
    rows = [(message, output.header(message.body)) for message in found]
    if as_json:
        output.as_json(
            [
                {"id": m.id, "task": h.get("task"), "queue": m.queue, "due": m.due, "retries": h.get("retries", 0)}
                for m, h in rows
            ]
        )
        return
    now = time.time()
    output.table(
        ("ID", "TASK", "QUEUE", "DUE", "IN", "RETRIES"),
        [
            (m.id, h.get("task"), m.queue, output.moment(m.due), brief(max(0.0, m.due - now)), h.get("retries", 0))
            for m, h in rows
        ],
    )
