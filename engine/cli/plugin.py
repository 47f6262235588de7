"""engine plugin new, check"""

from __future__ import annotations

import os
from pathlib import Path

import click

from engine.cli import output, plugin_checks, plugin_files
from engine.cli.check import show, status_of_findings
from engine.cli.options import examples, json_option

NEXT_STEPS = {
    "transport": (
        "engine plugin check {name} --url {name}:///tmp/engine-{name}",
        "python -m pytest {folder}",
        "engine start -c {folder}/worker.toml",
        "engine send documents.search prefork --wait -c {folder}/worker.toml        # from another terminal",
    ),
    "results": ("engine plugin check {name} --url {name}:///tmp/engine-{name}", "python -m pytest {folder}"),
    "observer": ("engine plugin check {name}", "python -m pytest {folder}"),
}


@click.group(
    "plugin",
    epilog=examples("engine plugin new nats --kind transport", "engine plugin check ./my_transport.py --url my://here"),
)
def command() -> None:
    """Write a plugin, or look one over: transports, result backends, observers."""


@command.command(
    "new", epilog=examples("engine plugin new nats --kind transport", "engine plugin new audit --kind observer")
)
@click.argument("name")
@click.option("--kind", type=click.Choice(list(plugin_files.KINDS)), required=True, help="What it is.")
@click.option("--into", metavar="FOLDER", help="Folder to write; it must not exist (default: engine-NAME).")
def new(name: str, kind: str, into: str | None) -> None:
    """Write the package of a plugin that works: to be installed, tested, and changed.

    NAME is the scheme of its URLs, or what [plugins] enable lists.
    """
    folder = Path(into if into is not None else plugin_files.distribution(name))
    try:
        files = plugin_files.write(name, kind, folder)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    for file in files:
        click.echo(folder / file)
    click.echo("\nNext:")
    place = str(folder) if folder.is_absolute() else os.path.join(os.curdir, folder)
    for line in (f"pip install -e '{place}[dev]'", *NEXT_STEPS[kind]):
        click.echo(f"  {line.format(name=name, folder=place)}")


@command.command(
    "check",
    epilog=examples("engine plugin check redis --url redis://localhost", "engine plugin check ./my_transport.py"),
)
@json_option
@click.argument("what", metavar="NAME_OR_FILE")
@click.option("--url", help="Open this broker or result backend too, look at it, and close it.")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="A key of [broker] or [results].")
def check(what: str, as_json: bool, url: str | None, options: tuple[str, ...]) -> int:
    """Look a plugin over: an installed one by its name, or a Python file.

    Looks at its hooks, at the methods and signatures of the classes that they give, and at what the transport says of
    itself. What the methods do is tested by the conformance suites of engine.testing.

    Exit status: 0 when there are no errors, 75 when only a server could not be reached, else 78.
    """
    pairs = dict(_pair(option) for option in options)
    findings = []
    for finding in plugin_checks.findings(what, url, pairs):
        findings.append(finding)
        if not as_json:
            show(finding)
    if as_json:
        output.as_json([vars(finding) for finding in findings])
    return status_of_findings(findings)


def _pair(option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not (key and equals):
        raise click.BadParameter(f"{option!r} is not KEY=VALUE", param_hint="--option")
    return key, value
