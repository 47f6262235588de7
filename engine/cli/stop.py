"""engine stop"""

from __future__ import annotations

import click

from engine.app.config.durations import brief
from engine.cli import control
from engine.cli.options import DURATION, config_option, configuration, examples, name_option
from engine.errors import EngineError

MARGIN = 30.0
"""Seconds beyond [worker] shutdown_timeout after which `engine stop` gives up waiting."""


@click.command(
    "stop", epilog=examples("engine stop -c conf/worker.toml", "engine stop --name shop --quick --timeout 10s")
)
@config_option
@name_option
@click.option("--quick", is_flag=True, help="Interrupt running tasks at once; those acknowledged late run again.")
@click.option("--timeout", type=DURATION, help="How long to wait (default: [worker] shutdown_timeout and 30 s).")
def command(config: str | None, name: str | None, quick: bool, timeout: float | None) -> int:
    """Let running tasks finish, then end the engine; returns when its processes are gone."""
    settings = configuration(config, {"engine.name": name}).settings
    if timeout is None:
        timeout = settings.worker.shutdown_timeout + MARGIN
    pid = control.end(settings, quick, timeout)
    if pid is None:
        raise EngineError(f"the engine has not ended within {brief(timeout)}: see `engine status`, or use --quick")
    click.echo(f"{settings.engine.name} stopped (pid {pid})", err=True)
    return 0
