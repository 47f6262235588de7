"""A real engine for each file of tests and each transport, shared by its tests: what is proven here is proven of all.

A transport joins with one line in ``TRANSPORTS``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "transports")]

import semantics_tasks  # noqa: E402 - found by the line above
from rabbit_server import shared as shared_node  # noqa: E402 - likewise

from engine.app.config.loader import load  # noqa: E402
from engine.app.results import AsyncResult  # noqa: E402
from engine.contract.transport import DeadLetter, Found, Transport  # noqa: E402
from engine.testing.harness import EngineProcess, toml, wait_for  # noqa: E402
from servers import redis_server  # noqa: E402

Opened = Callable[[Path, pytest.FixtureRequest], tuple[str, str]]


def _redis(folder: Path, request: pytest.FixtureRequest) -> tuple[str, str]:
    # Elsewhere: what has an engine's folder as its current directory is killed with the engine.
    place = folder.with_name(f"{folder.name}-server")
    place.mkdir()
    served = redis_server(place)
    server = served.__enter__()
    request.addfinalizer(lambda: served.__exit__(None, None, None))
    return server.url, server.url


def _rabbitmq(folder: Path, request: pytest.FixtureRequest) -> tuple[str, str]:
    node = shared_node()
    return node.url_of(node.virtual_host()), f"sqlite:///{folder}/engine.db"


TRANSPORTS: dict[str, Opened] = {
    "memory": lambda folder, request: ("memory://", "memory://"),
    "sqlite": lambda folder, request: (f"sqlite:///{folder}/engine.db",) * 2,
    "redis": _redis,
    "rabbitmq": _rabbitmq,
}
"""How each is made ready; returns the URLs of broker and results."""
DURABLE = [name for name in TRANSPORTS if name != "memory"]


class Site:
    """A folder with an engine, its ledger, and this process as its client."""

    def __init__(self, folder: Path, broker: str, results: str) -> None:
        self.folder = folder
        self.urls = {"broker": broker, "results": results}
        for name in ("semantics_kit.py", "semantics_tasks.py"):
            shutil.copy(HERE / name, folder)
        self.engines: list[EngineProcess] = []
        self.configure()

    def configure(self, **options: Any) -> EngineProcess:
        """Writes the configuration; returns an engine that is not started yet. This process becomes its client."""
        made = EngineProcess(self.folder, toml("semantics_tasks", **self.urls, **options))
        semantics_tasks.app.configure(load(str(made.config)).settings)
        self.engines.append(made)
        return made

    def start(self, **options: Any) -> EngineProcess:
        """Starts an engine."""
        return self.configure(**options).start()

    def close(self) -> None:
        """Ends the engines."""
        semantics_tasks.app.close()
        for engine in self.engines:
            engine.close()

    def require(self, request: pytest.FixtureRequest) -> Site:
        """Skips a test that needs what this transport says it cannot do. Returns itself."""
        capabilities = self.broker(lambda transport: transport.capabilities)
        for mark in request.node.iter_markers("needs"):
            if not all(getattr(capabilities, flag) for flag in mark.args):
                pytest.skip(f"{self.urls['broker'].partition(':')[0]} says no to {', '.join(mark.args)}")
        return self

    @property
    def engine(self) -> EngineProcess:
        """The engine that runs."""
        return self.engines[-1]

    def broker(self, call: Callable[[Transport], Any]) -> Any:
        """Calls something with the client's transport."""
        return semantics_tasks.app.client.broker(call)

    def ledger(self, *first: str) -> list[list[str]]:
        """Returns the rest of the ledger's lines that begin with these words."""
        path = self.folder / "ledger"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [line[len(first) :] for line in lines if line[: len(first)] == list(first)]

    def starts(self, result: AsyncResult[Any]) -> list[list[str]]:
        """Returns the ledger's lines of the starts of a task."""
        return self.ledger("start", result.id)

    def wait_start(self, result: AsyncResult[Any], count: int = 1) -> None:
        """Waits until a task has started so often."""
        wait_for(lambda: len(self.starts(result)) >= count, f"start {count} of the task")

    def wait_state(self, result: AsyncResult[Any], state: str) -> None:
        """Waits until the record of a task says this."""
        wait_for(lambda: result.state == state, f"the state to be {state}")

    def open(self, gate: str) -> None:
        """Lets tasks go on that hold at a gate."""
        (self.folder / f"gate-{gate}").touch()

    def dead(self, result: AsyncResult[Any]) -> DeadLetter | None:
        """Returns the dead letter of a task."""
        letter: DeadLetter | None = self.broker(lambda transport: transport.dead_letter(result.id))
        return letter

    def place(self, result: AsyncResult[Any]) -> str | None:
        """Returns where the message of a task is. None: nowhere, it was acknowledged, or this broker cannot tell."""
        found = self.broker(lambda transport: transport.find(result.id))
        return found.place if isinstance(found, Found) else None

    def wait_gone(self, result: AsyncResult[Any]) -> None:
        """Waits until the message of a task was acknowledged."""
        wait_for(lambda: self.place(result) is None, "the message to be acknowledged")

    def wait_log(self, *words: str) -> str:
        """Waits for a log line with all these words; returns it."""
        return wait_for(
            lambda: next((line for line in self.engine.log.splitlines() if all(word in line for word in words)), ""),
            f"a log line with {words}",
        )


def pytest_configure(config: pytest.Config) -> None:
    """Declares the mark."""
    config.addinivalue_line("markers", "needs(flag): capabilities that a transport must have for this test")


def _site(request: pytest.FixtureRequest, factory: pytest.TempPathFactory) -> Site:
    folder = factory.mktemp(request.param)
    return Site(folder, *TRANSPORTS[request.param](folder, request))


@pytest.fixture(scope="module", params=list(TRANSPORTS))
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The engine of this file and transport: two children, late acks, a short limit on memory for some."""
    site = _site(request, tmp_path_factory)
    site.start()
    yield site
    site.close()


@pytest.fixture
def site(shared: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The shared engine, which must have stayed up."""
    yield shared.require(request)
    wait_for(shared.engine.is_running, "the engine to be whole again")


@pytest.fixture(params=list(TRANSPORTS))
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of the test's own, with no engine started."""
    site = _site(request, tmp_path_factory)
    yield site
    site.close()


@pytest.fixture(params=DURABLE)
def durable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """As `fresh`, with a transport that outlives its engine."""
    site = _site(request, tmp_path_factory)
    yield site.require(request)
    site.close()
