"""engine reload"""

from __future__ import annotations

import time

import click

from engine.app.config.durations import brief
from engine.app.settings import Settings
from engine.cli import control
from engine.cli.options import DURATION, config_option, configuration, examples, name_option
from engine.errors import EngineError

POLL = 0.05
"""Seconds between two questions how the reload goes."""


@click.command("reload", epilog=examples("engine reload -c conf/worker.toml", "engine reload --name shop --no-wait"))
@config_option
@name_option
@click.option("--wait/--no-wait", default=True, help="Return when the new code has taken over (the default).")
@click.option("--timeout", type=DURATION, default=60.0, metavar="DURATION", help="How long to wait (default: 1m).")
def command(config: str | None, name: str | None, wait: bool, timeout: float) -> int:
    """Import the app again, and read the configuration again.

    Tasks that run finish on the old code. When the new code cannot be imported, or when something changed that needs a
    restart ([broker], [results] url, concurrency, queues), the old code keeps running, and this command says why and
    exits with 1.
    """
    settings = configuration(config, {"engine.name": name}).settings
    answer = control.ask(settings, "reload")
    if not wait:
        click.echo(f"{settings.engine.name} reloads (pid {answer['pid']}); its log says when it is done", err=True)
        return 0
    _await(settings, timeout)
    click.echo(f"{settings.engine.name} reloaded", err=True)
    return 0


def _await(settings: Settings, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        reload = control.ask(settings, "status")["reload"]
        if reload["state"] == "done":
            return
        if reload["state"] == "failed":
            raise EngineError(f"the reload failed, the old code keeps running: {reload['why']}")
        if time.monotonic() > deadline:
            raise EngineError(
                f"the reload has not ended within {brief(timeout)}: it goes on, and the engine's log tells how it ends"
            )
        time.sleep(POLL)
