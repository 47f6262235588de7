"""Options that many verbs share, and the configuration that they make."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from engine.app.app import Engine
from engine.app.config.durations import seconds
from engine.app.config.loader import DEFAULT_FILES, Config, load
from engine.app.connect import transport_for
from engine.app.discovery import load_app
from engine.app.settings import Settings
from engine.contract.transport import Transport
from engine.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
NO_FILE = f"there is no {' or '.join(DEFAULT_FILES)} in the current directory"


class DurationType(click.ParamType[float]):
    """Seconds, or text such as "90s"."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = DurationType()


def examples(*commands: str) -> str:
    """Returns the end of a verb's help: commands to copy."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {command}" for command in commands)])


def config_option(function: F) -> F:
    """Adds ``-c FILE``."""
    return click.option(
        "-c",
        "--config",
        metavar="FILE",
        help="Configuration file (default: $ENGINE_CONFIG, worker.toml, conf/worker.toml).",
    )(function)


def name_option(function: F) -> F:
    """Adds ``--name``."""
    return click.option("--name", metavar="NAME", help="Name of the engine, instead of [engine] name.")(function)


def json_option(function: F) -> F:
    """Adds ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(function)


@contextlib.contextmanager
def broker(config: str | None) -> Iterator[Transport]:
    """Opens the broker of the configuration for a client, and closes it."""
    found = configuration(config)
    settings = client_settings(found)
    try:
        transport = transport_for(settings)
    except ConfigError as error:
        if settings.broker.url is None and found.path is None:
            raise ConfigError(f"{error} ({NO_FILE})") from None
        raise
    try:
        yield transport
    finally:
        transport.close()


def client_settings(config: Config) -> Settings:
    """Returns the settings with which a client finds broker and results: where nothing else names a broker, those that
    the app's code gives. Raises ConfigError."""
    settings = config.settings
    if settings.broker.url is None and settings.engine.app:
        return load_app(settings).settings
    return settings


def bare_app(config: Config) -> Engine:
    """Returns an app without tasks, with the configuration's settings: for what needs no more than ids and names."""
    settings = client_settings(config)
    app = Engine(settings.engine.name)
    app.configure(settings)
    return app


def configuration(
    given: str | None, overrides: Mapping[str, Any] | None = None, code: Settings | None = None
) -> Config:
    """Returns the configuration of ``-c FILE`` and of options (``{"worker.concurrency": 8}``; None is not given).
    ``code`` is what the app's code says. Raises ConfigError."""
    values = {key: value for key, value in (overrides or {}).items() if value is not None}
    return load(find_file(given), overrides=values, code=code)


def find_file(given: str | None) -> str | None:
    """Returns the configuration file that is meant, if there is one. Raises ConfigError for a number."""
    if given is not None:
        if given.isdigit() and not Path(given).exists():
            raise ConfigError(f"-c {given}: -c names the configuration file; -n says how many children there are")
        return given
    if os.environ.get("ENGINE_CONFIG"):
        return os.environ["ENGINE_CONFIG"]
    return next((name for name in DEFAULT_FILES if Path(name).is_file()), None)
