"""engine send"""

from __future__ import annotations

import json
from typing import Any

import click

from engine.app.app import Engine
from engine.app.config.loader import Config
from engine.app.discovery import load_app
from engine.app.nearest import did_you_mean
from engine.cli import output
from engine.cli.options import DURATION, bare_app, config_option, configuration, examples, json_option
from engine.cli.result import show
from engine.errors import ConfigError

EXAMPLES = examples(
    "engine send documents.process README.md",
    """engine send shop.bill 17 '{"currency": "EUR"}' -k dry_run=true --countdown 10m""",
    "engine send documents.search prefork --wait",
)


@click.command("send", epilog=EXAMPLES)
@config_option
@json_option
@click.argument("name")
@click.argument("args", metavar="[ARG]...", nargs=-1)
@click.option("-k", "--kwarg", "pairs", metavar="KEY=VALUE", multiple=True, help="A keyword argument; may be repeated.")
@click.option("--kwargs", metavar="JSON", help="Keyword arguments as a JSON object.")
@click.option("-q", "--queue", metavar="QUEUE", help="Instead of the task's own queue.")
@click.option("--countdown", type=DURATION, help="Not before so long from now.")
@click.option("--expires", type=DURATION, help="REVOKED if it has not started by then.")
@click.option("--priority", type=click.IntRange(0, 9), help="9 goes first.")
@click.option("--id", "task_id", metavar="ID", help="Task id (default: a new one).")
@click.option("--no-import", is_flag=True, help="Do not import the app: tasks' own options do not count.")
@click.option("--wait", is_flag=True, help="Wait for the end and show it, as `engine result` does.")
@click.option("--timeout", type=DURATION, help="With --wait: how long (default: without end).")
def command(
    config: str | None,
    as_json: bool,
    name: str,
    args: tuple[str, ...],
    pairs: tuple[str, ...],
    kwargs: str | None,
    no_import: bool,
    wait: bool,
    timeout: float | None,
    **options: Any,
) -> int:
    """Send the task NAME and print its id.

    Each ARG, and the VALUE of each keyword, is JSON if it can be read as JSON, else text: 3 is a number, "3" with its
    quotes is text, README.md is text. What begins with [ { or a quote must be JSON. Put -- before an ARG that starts
    with a dash.
    """
    configured = configuration(config)
    app = _app(configured, no_import)
    if not no_import and app.tasks and app.find(name) is None:
        hint = did_you_mean(name, app.tasks) or f": the app has {', '.join(sorted(app.tasks))}"
        raise ConfigError(f"there is no task {name!r}{hint} (--no-import sends it all the same)")
    if wait:
        _check_waiting(app, name)
    keywords = {**_object(kwargs), **dict(_pair(pair) for pair in pairs)}
    given = {key: value for key, value in options.items() if value is not None}
    try:
        result = app.send_task(name, [_value(arg) for arg in args], keywords, **given)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if wait:
        return show(configured, result.id, as_json, True, timeout)
    if as_json:
        output.as_json({"id": result.id})
    else:
        click.echo(result.id)
    return 0


def _app(config: Config, no_import: bool) -> Engine:
    if config.settings.engine.app and not no_import:
        return load_app(config.settings)
    return bare_app(config)


def _check_waiting(app: Engine, name: str) -> None:
    """Before it is sent: afterwards nobody could wait for it."""
    if app.settings.results.url is None:
        raise ConfigError("no result backend to wait for: write url = ... under [results], or leave --wait out")
    if app.route_to(name).ignore_result:
        raise click.UsageError(f"{name} keeps no result (ignore_result), so its end is not seen: leave --wait out")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        if text.startswith(("[", "{", '"')):
            raise click.UsageError(f"{text} begins as JSON does and is none: {error}") from None
        return text


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise click.UsageError(f"-k takes KEY=VALUE, not {text!r}")
    return key, _value(value)


def _object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--kwargs is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError('--kwargs takes a JSON object such as {"key": 1}')
    return value
