"""engine check"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator

import click

from engine.app.config.loader import Config
from engine.app.settings import Settings
from engine.cli import checks, output
from engine.cli.checks import Finding
from engine.cli.exits import CONFIGURATION, OK, TRY_LATER
from engine.cli.options import config_option, configuration, examples, json_option, name_option

COLOURS = {"ok": "green", "note": None, "warning": "yellow", "later": "red", "error": "red"}


@click.command("check", epilog=examples("engine check -c conf/worker.toml", "engine check --no-connect --quiet"))
@config_option
@name_option
@json_option
@click.option("-A", "--app", metavar="MODULE[:VAR]", help="Where the app is.")
@click.option("--no-connect", is_flag=True, help="Do not connect to broker and result backend.")
@click.option("-q", "--quiet", is_flag=True, help="Print findings only, not the values.")
def command(config: str | None, name: str | None, as_json: bool, app: str | None, no_connect: bool, quiet: bool) -> int:
    """Try the configuration, and print every value with the place it comes from.

    Imports the app, opens broker and result backend, tries the system calls that `engine start` needs. Reports what
    would break when children are forked, and settings that do not fit the app or the broker.

    Exit status: 0 when there are no errors (warnings are none), 75 when only a server could not be reached, else 78.
    """
    overrides = {"engine.name": name, "engine.app": app}
    configured = configuration(config, overrides)
    findings = [*checks.system(configured.settings), *checks.plugins(configured.settings)]
    engine, found = checks.app(configured.settings)
    findings += found
    if engine is not None:
        # What the code gives is the weakest of all places, and known now.
        configured = configuration(config, overrides, engine.given)
    if not (quiet or as_json):
        _values(configured)
    told = []
    for finding in itertools.chain(findings, _servers(configured.settings, not no_connect)):
        told.append(finding)
        if not as_json and not (quiet and finding.level == "ok"):
            show(finding)
    if as_json:
        values = {key: {"value": json.loads(value), "origin": origin} for key, value, origin in configured.values()}
        output.as_json({"settings": values, "findings": [vars(finding) for finding in told]})
    return status_of_findings(told)


def _servers(settings: Settings, connect: bool) -> Iterator[Finding]:
    yield from checks.broker(settings, connect)
    yield from checks.results(settings, connect)


def _values(config: Config) -> None:
    click.echo(f"configuration: {config.path or 'no file'}")
    output.table(("SETTING", "VALUE", "FROM"), list(config.values()))
    click.echo()


def show(finding: Finding) -> None:
    """Prints one finding; further lines of its text stand below the first."""
    level = output.styled(f"{finding.level:8}", fg=COLOURS[finding.level])
    text = finding.text.replace("\n", "\n" + " " * 17)
    click.echo(f"{level}{finding.about:9}{text}")


def status_of_findings(findings: Iterable[Finding]) -> int:
    """Returns the exit status: 78 for an error, else 75 when a server could not be reached, else 0."""
    levels = {finding.level for finding in findings}
    if "error" in levels:
        return CONFIGURATION
    return TRY_LATER if "later" in levels else OK
