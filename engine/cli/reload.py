"""engine reload"""

from __future__ import annotations

import click

from engine.cli import control
from engine.cli.options import config_option, configuration, examples, name_option


@click.command("reload", epilog=examples("engine reload -c conf/worker.toml"))
@config_option
@name_option
def command(config: str | None, name: str | None) -> None:
    """Import the app again, and read [tasks], [routes] and [worker] again.

    Tasks that run finish on the old code. When the new code cannot be imported the old code keeps running: the engine's
    log says why.
    """
    settings = configuration(config, {"engine.name": name}).settings
    answer = control.ask(settings, "reload")
    click.echo(f"{settings.engine.name} reloads (pid {answer['pid']}); its log says when it is done", err=True)
