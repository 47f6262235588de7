"""The command `engine`: finds the verb, and turns what goes wrong into one line and an exit status.

A verb is imported when it is used, and `engine --help` imports none: the lines below are the list.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from engine.app.debug import debugging
from engine.app.nearest import did_you_mean
from engine.cli import celery_words
from engine.cli.exits import INTERNAL, INTERRUPTED, OK, USAGE, status_of
from engine.errors import EngineError

VERBS = {
    "start": "Run the engine: supervisor, dispatcher and children, until it is stopped.",
    "stop": "Let running tasks finish, then end the engine.",
    "reload": "Import the app again; running tasks finish on the old code.",
    "status": "What the engine's processes are doing.",
    "check": "Try the configuration: every value, the app, the broker, the system.",
    "send": "Send a task.",
    "result": "Show how a task ended, or where it is.",
    "revoke": "See to it that tasks do not run.",
    "queues": "How many messages are in each queue.",
    "pause": "Stop fetching from a queue, in all workers.",
    "resume": "Let a paused queue go on.",
    "purge": "Delete the messages that wait in a queue.",
    "scheduled": "List delayed messages, soonest first.",
    "dead": "List, show, replay or drop dead letters.",
    "plugins": "List installed plugins.",
    "plugin": "Write a plugin, or look one over.",
}

EPILOG = """\b
Examples:
  engine start -c conf/worker.toml
  engine send documents.process '"README.md"' --wait
  engine status --watch

\b
Without -c the configuration is the file named by ENGINE_CONFIG, else worker.toml
or conf/worker.toml in the current directory. ENGINE_<SECTION>_<KEY> variables and
options are stronger than the file.

\b
Exit statuses:
  0   done; the engine was drained
  1   what was asked for failed; a shutdown had to kill something
  64  wrong usage of this command
  70  internal error (ENGINE_DEBUG=1 shows the traceback)
  75  may pass later: no engine is running, the broker is down
  78  the configuration is wrong
  130 interrupted (^C), or a question was not answered with y
"""


class Verbs(click.Group):
    """Imports `engine.cli.<verb>` when the verb is used; each has a click command called ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            told = celery_words.VERBS.get(cmd_name)
            hint = f": {told}" if told else did_you_mean(cmd_name, VERBS)
            ctx.fail(f"there is no verb {cmd_name!r}{hint}")
        command: click.Command = importlib.import_module(f"engine.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(None, "--version", "-V", package_name="prefork-engine", message="engine %(version)s")
def cli() -> None:
    """A multiprocess prefork worker engine: tasks that are not lost, limits that hold."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exits with a status of `EPILOG`."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Runs one command and returns its exit status. Errors are lines on stderr."""
    try:
        status = cli.main(arguments, prog_name="engine", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        return _misused(error)
    except click.Abort as error:
        if error.__cause__ is None:  # no ^C, but "no" to a question, or nobody there to ask
            click.echo("engine: nothing was done (--yes does not ask)", err=True)
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # SystemExit is click's own answer to a broken pipe, and nobody else's.
        return _hung_up()
    except EngineError as error:
        return _failed(str(error), status_of(error), error)
    except Exception as error:  # noqa: BLE001 - the last place that can tell it to the user in one line
        return _failed(f"internal error: {type(error).__name__}: {error}", INTERNAL, error)
    return status if isinstance(status, int) else OK


def _misused(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return USAGE
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    text = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and ctx is not None and ctx.parent is None:
        text += ": options follow the verb, as in `engine start -A shop.tasks`"
    elif isinstance(error, click.NoSuchOption) and error.option_name in celery_words.OPTIONS:
        text = f"no such option {error.option_name!r}: {celery_words.OPTIONS[error.option_name]}"
    click.echo(f"engine: {text[:1].lower()}{text[1:]} (see: {ctx.command_path if ctx else 'engine'} --help)", err=True)
    return USAGE


def _failed(text: str, status: int, error: BaseException) -> int:
    if debugging():
        traceback.print_exception(error)
    for line in text.splitlines() or [type(error).__name__]:
        click.echo(f"engine: {line}", err=True)
    return status


def _hung_up() -> int:
    """Who read our output is gone (``engine queues | head -1``). Python would complain once more at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


if __name__ == "__main__":
    main()
