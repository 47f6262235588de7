"""Asks the app's code for the URLs that it gives its `Engine`, when the configuration does not name both.

The supervisor never imports user code, so another process does, and writes the answer to a pipe: whatever the import
prints goes where the engine's output goes.
"""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from engine.app.config.loader import dump, restore
from engine.app.discovery import load_app
from engine.app.settings import BrokerSection, Duration, ResultsSection, Settings
from engine.errors import ConfigError


class Answer(msgspec.Struct):
    """What the code says, or why it cannot be asked."""

    broker: str | None = None
    results: str | None = None
    expires: float | None = None
    error: str | None = None


def from_code(settings: Settings) -> Settings:
    """Returns settings with the URLs, and the expiry of results, of the app that ``settings`` name. Raises ConfigError
    when it cannot be imported.

    Called by ``engine start``, before anything is forked.
    """
    reading, writing = os.pipe()
    # What the import has started may hold the other end for ever: only what is there by its end counts.
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb") as reply:
        command = [sys.executable, "-m", "engine.cli.code_settings", str(writing)]
        try:
            ended = subprocess.run(command, input=dump(settings), pass_fds=[writing], check=False)
        finally:
            os.close(writing)
        data = reply.read() or b""
    if not data:
        raise ConfigError(f"[engine] app: the import of {settings.engine.app} ended with status {ended.returncode}")
    answer = msgspec.msgpack.decode(data, type=Answer)
    if answer.error is not None:
        raise ConfigError(answer.error)
    results = ResultsSection(answer.results)
    if answer.expires is not None:
        results.expires = Duration(answer.expires)
    return Settings(broker=BrokerSection(answer.broker), results=results)


def main() -> None:
    """Runs in the process that is asked: settings on stdin, the descriptor for the answer as argument."""
    settings = restore(sys.stdin.buffer.read())
    try:
        given = load_app(settings).given
        answer = Answer(given.broker.url, given.results.url, float(given.results.expires))
    except ConfigError as error:
        answer = Answer(error=str(error))
    os.write(int(sys.argv[1]), msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    main()
