"""engine start"""

from __future__ import annotations

import sys

import click

from engine.app.values import LOG_LEVELS
from engine.cli.options import config_option, configuration, name_option
from engine.errors import ConfigError


@click.command(
    "start", epilog="\b\nExamples:\n  engine start -c conf/worker.toml\n  engine start --app shop.tasks -n 8"
)
@config_option
@name_option
@click.option("-n", "--concurrency", metavar="N", help="How many children run tasks (0: one per CPU).")
@click.option("-q", "--queues", metavar="A,B", help="Queues to fetch from.")
@click.option("-A", "--app", metavar="MODULE[:VAR]", help="Where the app is.")
@click.option(
    "-l", "--log-level", type=click.Choice(LOG_LEVELS, case_sensitive=False), metavar="LEVEL", help="Such as DEBUG."
)
@click.option("--json-logs", is_flag=True, default=None, help="Log lines as JSON objects.")
def command(
    config: str | None,
    name: str | None,
    concurrency: str | None,
    queues: str | None,
    app: str | None,
    log_level: str | None,
    json_logs: bool | None,
) -> int:
    """Run the engine until it is stopped.

    It stays in the foreground. TERM or the first ^C lets running tasks finish (at most [worker] shutdown_timeout),
    the second ^C or QUIT does not wait. HUP reloads the app.
    """
    if sys.platform != "linux":
        raise ConfigError(
            f"engine start needs Linux, and this is {sys.platform}: run it in a container "
            "(sending tasks, reading results and .apply() work here)"
        )
    settings = configuration(
        config,
        engine__name=name,
        engine__app=app,
        worker__concurrency=concurrency,
        worker__queues=queues,
        worker__log_level=log_level,
        worker__json_logs=json_logs,
    )
    if not settings.settings.engine.app:
        raise ConfigError('no app: give -c FILE, or --app MODULE, or write app = "package.module" under [engine]')
    from engine.runtime import boot

    return boot.start(settings)
