"""engine start"""

from __future__ import annotations

import sys
from typing import Any

import click

from engine.app.config.values import LOG_LEVELS
from engine.cli.options import NO_FILE, config_option, configuration, examples, name_option
from engine.errors import ConfigError


@click.command(
    "start",
    epilog=examples("engine start -c conf/worker.toml", "engine start --app shop.tasks -n 8 --log-level debug"),
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
    options: dict[str, Any] = {
        "engine.name": name,
        "engine.app": app,
        "worker.concurrency": concurrency,
        "worker.queues": queues,
        "worker.log_level": log_level,
        "worker.json_logs": json_logs,
    }
    configured = configuration(config, options)
    if not configured.settings.engine.app:
        where = "" if configured.path else f" ({NO_FILE})"
        raise ConfigError(
            f'no app: give -c FILE, or --app MODULE, or write app = "package.module" under [engine]{where}'
        )
    if "default" in (configured.origins["broker.url"], configured.origins["results.url"]):
        from engine.cli.code_settings import from_code  # late: a file that names both URLs does without

        configured = configuration(config, options, from_code(configured.settings))
    from engine.runtime import boot  # late: what it imports exists on Linux only

    return boot.start(configured)
