"""engine status"""

from __future__ import annotations

import time
from typing import Any

import click

from engine.app.config.durations import brief
from engine.app.settings import Settings
from engine.cli import control, output
from engine.cli.options import config_option, configuration, examples, json_option, name_option


@click.command(
    "status", epilog=examples("engine status --watch", "engine status --json | jq '.slots[] | select(.task)'")
)
@config_option
@name_option
@json_option
@click.option("--watch", is_flag=True, help="Show it anew every second, until ^C.")
def command(config: str | None, name: str | None, as_json: bool, watch: bool) -> None:
    """What the engine's processes are doing."""
    settings = configuration(config, {"engine.name": name}).settings
    if not watch:
        _show(settings, as_json)
        return
    while True:
        if output.in_colour():
            click.clear()
        _show(settings, as_json)
        time.sleep(1.0)


def _show(settings: Settings, as_json: bool) -> None:
    answer = control.ask(settings, "status")
    if as_json:
        output.as_json({key: value for key, value in answer.items() if key != "ok"})
        return
    click.echo(
        f"{output.styled(answer['name'], bold=True)}  {output.state(answer['state'])}  up {brief(answer['uptime'])}  "
        f"queues {', '.join(answer['queues'])}  broker {answer['broker']}  version {answer['version']}"
    )
    click.echo()
    output.table(("PROCESS", "PID", "UP", "RESTARTS"), [_process(process) for process in answer["processes"]])
    click.echo()
    slots = sorted(answer["slots"], key=lambda slot: int(slot["slot"]))
    newest = max((slot.get("generation", 0) for slot in slots), default=0)
    rows = [_slot(slot, old=slot.get("generation", newest) < newest) for slot in slots]
    output.table(("CHILD", "PID", "STATE", "DONE", "FOR", "TASK", "ID"), rows)


def _process(process: dict[str, Any]) -> tuple[object, ...]:
    return process["role"], process["pid"], brief(process["uptime"]), process["restarts"]


def _slot(slot: dict[str, Any], *, old: bool) -> tuple[object, ...]:
    seconds = slot.get("seconds")
    code = " (old code)" if old else ""
    return (
        slot["slot"],
        slot["pid"],
        f"{output.state(slot['state'])}{code}",
        slot["done"],
        None if seconds is None else brief(seconds),
        slot.get("task"),
        slot.get("id"),
    )
