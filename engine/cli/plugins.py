"""engine plugins"""

from __future__ import annotations

import click
import msgspec

from engine.app.plugins import installed
from engine.cli import output
from engine.cli.options import examples, json_option


@click.command("plugins", epilog=examples("engine plugins --json"))
@json_option
def command(as_json: bool) -> None:
    """List installed plugins: transports and result backends by URL scheme, and what [plugins] enable may name.

    Nothing is imported: `engine check` tries those that the configuration asks for.
    """
    found = installed()
    if as_json:
        output.as_json([msgspec.to_builtins(plugin) for plugin in found])
        return
    output.table(
        ("GROUP", "NAME", "MODULE", "DISTRIBUTION", "VERSION"),
        [(plugin.group, plugin.name, plugin.module, plugin.distribution, plugin.version) for plugin in found],
    )
