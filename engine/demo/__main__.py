"""``python -m engine.demo``: an engine at work, from start to stop."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import click

from engine.demo.feed import run
from engine.demo.worker import running

CONFIG = """\
[engine]
name = "demo"
app = "engine.demo:app"

[broker]
url = "sqlite:///engine.db"

[results]
url = "sqlite:///engine.db"

[tasks]
acks_late = true
"""
"""The configuration without ``-c``."""


@click.command()
@click.option("-c", "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Settings to use.")
@click.option("--limit", default=2000, show_default=True, type=click.IntRange(1), help="The most documents to process.")
@click.option("--query", default="context manager", show_default=True, help="What to search for.")
def main(config: Path | None, limit: int, query: str) -> None:
    """Starts an engine in a temporary folder, has it index the documents of this machine's Python, searches them, and
    stops it. Leaves nothing behind. Exit status: 0 if all went as it should, else 1."""
    signal.signal(signal.SIGTERM, _exit)
    with tempfile.TemporaryDirectory(prefix="engine-demo-") as name:
        folder = Path(name)
        if config is None:
            config = folder / "worker.toml"
            config.write_text(CONFIG)
        with running(config.resolve(), folder) as worker:
            run(worker, limit, query)


def _exit(number: int, frame: FrameType | None) -> None:
    """Leaves through every ``finally`` on the way, as Ctrl-C does."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
