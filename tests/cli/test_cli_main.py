"""The command as a whole: help, exit statuses, one line for a mistake."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from playground import Engine

from engine import errors
from engine.cli import celery_words, main
from engine.cli.exits import CONFIGURATION, FAILED, TRY_LATER, status_of

ROOT = Path(__file__).parents[2]
PYTHON = [sys.executable, "-m", "engine.cli.main"]


def _environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "transports", "plugins"))
    return {**os.environ, "PYTHONPATH": path, **more}


def _verbs() -> list[tuple[str, click.Command]]:
    ctx = click.Context(main.cli)
    found = []
    for name in main.VERBS:
        command = main.cli.get_command(ctx, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", command.commands[sub]) for sub in command.commands]
    return found


def test_help_lists_every_verb_and_imports_none(folder: Path) -> None:
    code = (
        "import sys; from engine.cli import main; status = main.run(['--help'])\n"
        "loaded = [name for name in sys.modules if name.startswith(('engine.cli.s', 'engine.runtime', 'engine_'))]\n"
        "sys.exit(repr(loaded) if loaded else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    for verb, text in main.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(text.split()[0])}", done.stdout, re.MULTILINE)
    for status in (0, 1, 64, 70, 75, 78):
        assert re.search(rf"^    {status} +\w", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(("name", "command"), [pytest.param(*pair, id=pair[0]) for pair in _verbs()])
def test_every_verb_explains_itself(name: str, command: click.Command) -> None:
    done = CliRunner().invoke(main.cli, [*name.split(), "--help"])
    assert done.exit_code == 0
    assert (command.help or "").strip().endswith((".", ":"))
    assert f"Examples:\n    engine {name}" in done.output
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.is_eager, f"{name}: {parameter.opts}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["strt"], "engine: there is no verb 'strt', did you mean \"start\"? (see: engine --help)\n"),
        (["worker"], "engine: there is no verb 'worker': it is 'start' here (see: engine --help)\n"),
        (
            ["-A", "shop", "worker"],
            "no such option '-A': options follow the verb, as in `engine start -A shop.tasks` (see",
        ),
        (["dance"], "engine: there is no verb 'dance' (see: engine --help)\n"),
        (["start", "--concurency", "3"], "engine: no such option '--concurency'"),
        (["start", "-Q", "a,b"], "engine: no such option '-Q': it is -q or --queues here (see"),
        (["start", "--pool", "gevent"], "engine: no such option '--pool': leave it out: tasks run in processes"),
        (["beat"], "engine: there is no verb 'beat': periodic tasks are not built: let cron run `engine send NAME`"),
        (["result"], "engine: missing argument 'ID' (see: engine result --help)\n"),
        (["stop", "--timeout", "soon"], "is not a duration: a number of seconds"),
        (["dead", "eat"], "engine: no such command 'eat'"),
    ],
)
def test_wrong_usage(engine: Engine, arguments: list[str], said: str) -> None:
    ended = engine(*arguments)
    assert ended.status == 64
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert not ended.out


def test_what_celerys_command_has_and_this_one_has_not(engine: Engine) -> None:
    for verb, text in celery_words.VERBS.items():
        assert f"there is no verb {verb!r}: {text} (see" in engine(verb).err
    for option, text in celery_words.OPTIONS.items():
        assert f"no such option {option!r}: {text} (see" in engine("start", option).err


def test_a_number_is_no_configuration_file(engine: Engine, folder: Path) -> None:
    ended = engine("start", "-c", "4")
    assert (ended.status, ended.out) == (78, "")
    assert ended.err == "engine: -c 4: -c names the configuration file; -n says how many children there are\n"
    (folder / "4").write_text("[worker]\nconcurency = 4\n")
    assert engine("start", "-c", "4").err.startswith("engine: 4:2: [worker] concurency")


def test_no_verb_shows_the_help(engine: Engine) -> None:
    ended = engine()
    assert ended.status == 64
    assert "Exit statuses:" in ended.err


def test_the_version(engine: Engine) -> None:
    ended = engine("--version")
    assert ended.status == 0
    assert re.fullmatch(r"engine \d+\.\d+\.\d+\S*\n", ended.out)


@pytest.mark.parametrize("verb", [["start"], ["status"], ["queues"], ["send", "x"], ["result", "x"], ["check"]])
def test_a_configuration_that_is_wrong(engine: Engine, folder: Path, verb: list[str]) -> None:
    (folder / "worker.toml").write_text("[worker]\nconcurency = 4\n[broker]\nurl = 3\n")
    ended = engine(*verb)
    assert ended.status == 78
    assert ended.err == (
        'engine: worker.toml:2: [worker] concurency: unknown key, did you mean "concurrency"?\n'
        "engine: worker.toml:4: [broker] url: expected text in quotes, got 3\n"
    )


def test_which_file_is_read(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name() -> str:
        return str(engine("status").err.split("'")[1])

    assert name() == "engine"
    (folder / "conf").mkdir()
    (folder / "conf/worker.toml").write_text('[engine]\nname = "conf"')
    assert name() == "conf"
    (folder / "worker.toml").write_text('[engine]\nname = "here"')
    assert name() == "here"
    (folder / "other.toml").write_text('[engine]\nname = "other"')
    monkeypatch.setenv("ENGINE_CONFIG", "other.toml")
    assert name() == "other"
    assert engine("status", "-c", "worker.toml").err.split("'")[1] == "here"
    assert engine("status", "-c", "worker.toml", "--name", "option").err.split("'")[1] == "option"


def test_starting_without_an_app(engine: Engine, folder: Path) -> None:
    ended = engine("start")
    assert (ended.status, ended.err.count("\n")) == (78, 1)
    assert "give -c FILE, or --app MODULE" in ended.err
    assert "(there is no worker.toml or conf/worker.toml in the current directory)" in ended.err


def test_no_configuration_at_all(engine: Engine, folder: Path) -> None:
    ended = engine("queues")
    assert ended.status == 78
    assert ended.err.startswith("engine: no broker: write url = ")
    assert ended.err.endswith(" (there is no worker.toml or conf/worker.toml in the current directory)\n")


def test_starting_elsewhere_than_on_linux(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    ended = engine("start", "--app", "x")
    assert ended.status == 78
    assert "needs Linux, and this is darwin: run it in a container" in ended.err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ConfigError("x"), CONFIGURATION),
        (errors.PluginError("x"), CONFIGURATION),
        (errors.AlreadyRunning("x"), CONFIGURATION),
        (errors.NotRunning("x"), TRY_LATER),
        (errors.BrokerUnavailable("x"), TRY_LATER),
        (errors.BrokerFull("x"), TRY_LATER),
        (errors.TransportError("x"), FAILED),
        (errors.TimeoutError("x"), FAILED),
    ],
)
def test_exit_statuses(error: errors.EngineError, status: int) -> None:
    assert status_of(error) == status


def _fails(*_: object, **__: object) -> None:
    raise ZeroDivisionError("by zero")


def test_an_internal_error_is_one_line_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.cli.status.configuration", _fails)
    ended = engine("status")
    assert (ended.status, ended.err) == (70, "engine: internal error: ZeroDivisionError: by zero\n")
    monkeypatch.setenv("ENGINE_DEBUG", "1")
    ended = engine("status")
    assert ended.err.startswith("Traceback (most recent call last):")


def test_a_reader_that_hangs_up_is_no_error(folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{' '.join(PYTHON)} plugins --json; echo status $?"],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.endswith("status 0\n")
    hung_up = subprocess.run(
        ["bash", "-c", f"{{ {' '.join(PYTHON)} --help; echo status $? >&2; }} | true"],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert hung_up.stderr == "status 0\n"


def test_exit_statuses_reach_the_shell(folder: Path) -> None:
    for arguments, status in ((["status"], 75), (["strt"], 64), (["status", "-c", "nowhere.toml"], 78), (["-V"], 0)):
        done = subprocess.run(
            [*PYTHON, *arguments], env=_environment(), cwd=folder, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == status, done.stderr


def test_plugins(engine: Engine) -> None:
    rows = {tuple(line[:3]) for line in engine("plugins").lines}
    assert {("engine.transports", "memory", "engine_memory"), ("engine.results", "sqlite", "engine_sqlite")} <= rows
    names = {(plugin["group"], plugin["name"]) for plugin in engine("plugins", "--json").json}
    assert ("engine.transports", "sqlite") in names


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.cli import output

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.state("running") == "\x1b[32mrunning\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.state("running") == "running"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert output.state("running") == "running"
