"""engine dead list, show, replay, drop"""

from __future__ import annotations

from typing import Any

import click

from engine.cli import output
from engine.cli.options import broker, config_option, examples, json_option
from engine.contract.transport import DeadLetter, Transport
from engine.errors import TransportError

PAGE = 500
"""Dead letters that are listed, and replayed or dropped, in one round trip."""


@click.group(
    "dead",
    epilog=examples(
        "engine dead list --queue reports",
        "engine dead show 5d1c...",
        "engine dead replay --all",
        "engine dead drop 5d1c... --yes",
    ),
)
def command() -> None:
    """Dead letters: messages that will not run unless you say so, each with its reason."""


@command.command("list", epilog=examples("engine dead list --queue reports --json"))
@config_option
@json_option
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many at most.")
@click.option("--queue", metavar="QUEUE", help="Only those of this queue.")
def list_(config: str | None, as_json: bool, limit: int, queue: str | None) -> None:
    """List dead letters, latest first."""
    with broker(config) as transport:
        letters = transport.dead(limit, queue)
    if as_json:
        output.as_json([_plain(letter) for letter in letters])
        return
    output.table(
        ("ID", "TASK", "QUEUE", "DIED", "DELIVERIES", "CRASHES", "REASON"),
        [
            (
                letter.id,
                output.header(letter.body).get("task"),
                letter.queue,
                output.moment(letter.died),
                letter.deliveries,
                letter.crashes,
                letter.reason.splitlines()[0] if letter.reason else "",
            )
            for letter in letters
        ],
    )


@command.command("show", epilog=examples("engine dead show 5d1c..."))
@config_option
@json_option
@click.argument("id")
def show(config: str | None, as_json: bool, id: str) -> None:
    """Show one dead letter, whole."""
    with broker(config) as transport:
        letter = transport.dead_letter(id)
    if letter is None:
        raise TransportError(f"there is no dead letter {id}: `engine dead list` shows their ids")
    if as_json:
        output.as_json({**_plain(letter), "message": letter.body.decode("utf-8", "backslashreplace")})
        return
    for key, value in _plain(letter).items():
        click.echo(f"{key + ':':12}{output.moment(value) if key == 'died' else value}")
    click.echo(f"{'message:':12}{letter.body.decode('utf-8', 'backslashreplace')}")


@command.command(
    "replay", epilog=examples("engine dead replay 5d1c... 77aa...", "engine dead replay --all --queue reports")
)
@config_option
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--queue", metavar="QUEUE", help="With --all: only those of this queue.")
def replay(config: str | None, ids: tuple[str, ...], everything: bool, queue: str | None) -> int:
    """Put dead letters back into their queues. Their crash count starts anew."""
    _check_choice(ids, everything)
    with broker(config) as transport:
        wanted = list(ids) or _all(transport, queue)
        done = sum(transport.replay(wanted[i : i + PAGE]) for i in range(0, len(wanted), PAGE))
    return _told(done, len(wanted), "put back", everything)


@command.command("drop", epilog=examples("engine dead drop --all --yes"))
@config_option
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--queue", metavar="QUEUE", help="With --all: only those of this queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(config: str | None, ids: tuple[str, ...], everything: bool, queue: str | None, yes: bool) -> int:
    """Delete dead letters, for good."""
    _check_choice(ids, everything)
    with broker(config) as transport:
        wanted = list(ids) or _all(transport, queue)
        if wanted and not yes:
            click.confirm(f"Delete {output.counted(len(wanted), 'dead letter')}?", abort=True, err=True)
        done = sum(transport.drop(wanted[i : i + PAGE]) for i in range(0, len(wanted), PAGE))
    return _told(done, len(wanted), "deleted", everything)


def _check_choice(ids: tuple[str, ...], everything: bool) -> None:
    if bool(ids) == everything:
        raise click.UsageError("give either IDs or --all")


def _all(transport: Transport, queue: str | None) -> list[str]:
    counts = transport.counts([queue] if queue else None)
    total = sum(count.dead for count in counts.values())
    return [letter.id for letter in transport.dead(total, queue)] if total else []


def _told(done: int, wanted: int, what: str, everything: bool) -> int:
    click.echo(f"{output.counted(done, 'dead letter')} {what}", err=True)
    if done < wanted and not everything:
        click.echo(f"engine: {wanted - done} of {output.counted(wanted, 'id')} named no dead letter", err=True)
        return 1
    return 0


def _plain(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "task": output.header(letter.body).get("task"),
        "queue": letter.queue,
        "reason": letter.reason,
        "died": letter.died,
        "deliveries": letter.deliveries,
        "crashes": letter.crashes,
    }
