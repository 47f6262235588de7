"""Engines for process tests: each in its own folder, with a check that it leaves nothing behind."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from engine import Engine
from engine.testing.harness import EngineProcess, toml

TASKS = Path(__file__).with_name("tasks.py")


class Site:
    """A folder with an engine, its ledger, and a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(TASKS, folder / "tasks.py")
        self.url = f"sqlite:///{folder}/engine.db"
        self.client = Engine("client", broker=self.url, backend=self.url)
        self.engines: list[EngineProcess] = []

    def engine(self, *, args: list[str] | None = None, env: dict[str, str] | None = None, **options) -> EngineProcess:
        """Returns an engine that is not started yet."""
        made = EngineProcess(self.folder, toml("tasks", broker=self.url, **options), args=args or (), env=env)
        self.engines.append(made)
        return made

    def send(self, name: str, *args, **options):
        """Sends ``tasks.name(*args)``; returns its AsyncResult."""
        return self.client.send_task(f"tasks.{name}", args, **options)

    def get(self, name: str, *args, **options):
        """Sends, and waits for the result."""
        return self.send(name, *args, **options).get(timeout=20)

    def broker(self, call):
        """Calls something with the client's transport."""
        return self.client.client.broker(call)

    def ledger(self) -> list[list[str]]:
        """Returns the ledger's lines, split into words."""
        path = self.folder / "ledger"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def starts(self) -> Counter:
        """Returns how often each key was started."""
        return Counter(words[1] for words in self.ledger() if words[0] == "S")

    def ends(self) -> Counter:
        """Returns how often each key was ended."""
        return Counter(words[1] for words in self.ledger() if words[0] == "E")


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.client.close()
    for engine in made.engines:
        engine.close()


@pytest.fixture
def up(site):
    """A site whose engine runs."""
    site.engine().start()
    return site
