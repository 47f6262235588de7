"""engine revoke"""

from __future__ import annotations

from contextlib import closing

import click

from engine.cli.options import bare_app, config_option, configuration, examples


@click.command("revoke", epilog=examples("engine revoke 5d1c... 77aa...", "engine revoke 5d1c... --terminate"))
@config_option
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--terminate", is_flag=True, help="Interrupt those that run, and kill those that go on all the same.")
def command(config: str | None, ids: tuple[str, ...], terminate: bool) -> None:
    """See to it that tasks do not run: queued, delayed and retrying ones, also while no worker is up.

    Where the broker finds the message the task ends REVOKED at once, else when a worker meets it.
    """
    with closing(bare_app(configuration(config))) as app:
        app.revoke(ids, terminate)
    for id in ids:
        click.echo(f"{id} revoked", err=True)
