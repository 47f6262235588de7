"""An engine, its broker and a proxy between them, for tests of faults."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

sys.path.append(str(Path(__file__).parent.parent / "transports"))

from rabbit_server import shared

from engine import Engine
from engine.app.results import AsyncResult
from engine.errors import ConfigError
from engine.testing.faults.brokers import Broker, Server, broker
from engine.testing.faults.clock import VARIABLE as CLOCK
from engine.testing.faults.clock import WallClock
from engine.testing.faults.ledger import FILE, Ledger
from engine.testing.faults.points import VARIABLE
from engine.testing.faults.proxy import Proxy
from engine.testing.faults.rabbitmq import Rabbit
from engine.testing.harness import EngineProcess, toml, wait_for

APP = "engine.testing.faults.tasks"
DECLARED_IN = 10.0
"""Seconds in which a queue that is listed can be asked."""
PLACES = ("ready", "delayed", "claimed", "dead")


class VirtualHost(Server):
    """A virtual host of the RabbitMQ node that all tests of this process share: a node takes long to start. It may be
    killed, as its tests run one after the other."""

    def __init__(self, node: Rabbit, folder: Path) -> None:
        super().__init__(folder)
        self.node = node
        self.port = node.port
        self.url = node.url_of(node.virtual_host())
        self.results = f"sqlite:///{folder}/results.db"

    def start(self) -> None:
        """Starts the node, if it was killed."""
        if self.node.process is None:
            self.node.start()

    def kill(self) -> None:
        """Kills the node."""
        self.node.kill()

    def pause(self) -> None:
        """Stops the node: it hangs."""
        self.node.pause()

    def resume(self) -> None:
        """Lets the node go on."""
        self.node.resume()

    def places(self) -> dict[str, int]:
        """Returns how many messages there are in each place, claimed by anybody: a client sees its own claims only. A
        queue is asked for all at once, and twice, as a message may go from one to another meanwhile."""
        said = self._counted()
        rows = re.findall(r'\{"([^"]+)",\s*(\d+),\s*(\d+)\}', said)
        counts = [dict.fromkeys(PLACES, 0) for _ in range(2)]
        for number, (queue, ready, claimed) in enumerate(rows):
            count = counts[number * 2 // len(rows)]
            count[_place_of(queue)] += int(ready)
            count["claimed"] += int(claimed)
        return {place: max(count[place] for count in counts) for place in PLACES}

    def _counted(self) -> str:
        """Asks the node. A queue that is just being declared is listed, and cannot be asked yet: then all are asked
        again."""
        name = self.url.rpartition("/")[2]
        query = (
            "Query = fun (S) -> {rabbit_fifo:query_messages_ready(S), rabbit_fifo:query_messages_checked_out(S)} end, "
            "Count = fun (Q) -> {resource, _, queue, N} = amqqueue:get_name(Q), "
            "{ok, {_, {R, C}}, _} = ra:local_query(amqqueue:get_pid(Q), Query), {binary_to_list(N), R, C} end, "
            f'[Count(Q) || _ <- [1, 2], Q <- rabbit_amqqueue:list(<<"{name}">>), '
            "amqqueue:get_type(Q) =:= rabbit_quorum_queue]."
        )
        deadline = time.monotonic() + DECLARED_IN
        while True:
            try:
                return self.node.evaluate(query)
            except AssertionError as error:
                if "badarg" not in str(error) or time.monotonic() > deadline:
                    raise

    def close(self) -> None:
        """Leaves the node up, for the next test."""
        if self.node.process is not None:
            self.node.resume()
        self.start()


def _place_of(queue: str) -> str:
    if queue.startswith("engine.delay."):
        return "delayed"
    return "dead" if queue.endswith(".dead") or queue == "engine.lost" else "ready"


def made(transport: str, folder: Path) -> Broker:
    """Returns a broker, not started; without its server's program the test is skipped, or fails under CI=true."""
    try:
        return VirtualHost(shared(), folder) if transport == "rabbitmq" else broker(transport, folder)
    except ConfigError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


class Front(Protocol):
    """What stands before a server, on a port of its own."""

    port: int

    def close(self) -> None:
        """Ends it."""


class Rig:
    """A folder with a broker, an engine and a ledger; this process is a client. ``through``: the engine, and only the
    engine, reaches its broker through `front`, which this makes from the server's port."""

    def __init__(self, folder: Path, transport: str, *, through: Callable[[int], Front] | None = None) -> None:
        self.folder = folder
        self.transport = transport
        self.broker = made(transport, folder)
        self.broker.start()
        self.clock: WallClock | None = None
        self.front = None if through is None else through(self.server.port)
        self.engines: list[EngineProcess] = []
        self.book = Ledger(folder)
        self._client: Engine | None = None

    @property
    def server(self) -> Server:
        """The broker's process."""
        assert isinstance(self.broker, Server), f"{self.transport} has no server"
        return self.broker

    @property
    def proxy(self) -> Proxy:
        """The front, when it is a proxy."""
        assert isinstance(self.front, Proxy), "this rig has no proxy"
        return self.front

    @property
    def engine(self) -> EngineProcess:
        """The engine started last."""
        return self.engines[-1]

    def start(
        self,
        *,
        points: str = "",
        wait: bool = True,
        stderr: Any = None,
        host: str = "",
        wrapper: Sequence[str] = (),
        **options: Any,
    ) -> EngineProcess:
        """Starts an engine, with the points armed; its wall clock is `clock`. One of another ``host`` has a folder of
        its own, and shares broker and ledger. ``wrapper`` as of `EngineProcess`."""
        url = self.broker.url
        if self.front is not None:
            url = url.replace(str(self.server.port), str(self.front.port))
        env = {VARIABLE: points} if points else {}
        if self.clock is not None:
            env[CLOCK] = str(self.clock.path)
        config = toml(APP, broker=url, **options)
        if self.broker.results != self.broker.url:
            config = config.replace(f'[results]\nurl = "{url}"', f'[results]\nurl = "{self.broker.results}"')
        folder = self.folder / host
        if host:
            folder.mkdir()
            (folder / FILE).symlink_to(self.folder / FILE)
        engine = EngineProcess(folder, config, env=env, wrapper=wrapper)
        self.engines.append(engine)
        return engine.start(wait=wait, stderr=stderr)

    @property
    def client(self) -> Engine:
        """The client: by URL, or through the engine where the broker lives inside of it."""
        if self._client is None:
            if self.transport == "memory":
                self._client = Engine.from_toml(str(self.engine.config))
            else:
                self._client = Engine("client", broker=self.broker.url, backend=self.broker.results)
        return self._client

    def send(self, name: str, *args: Any, **options: Any) -> AsyncResult[Any]:
        """Sends ``faults.name(*args)``."""
        return self.client.send_task(f"faults.{name}", args, **options)

    def send_many(self, name: str, count: int, *args: Any) -> list[AsyncResult[Any]]:
        """Sends the same task so many times, in bulk."""
        return self.client.send_many([self.client.signature(f"faults.{name}", args)] * count)

    def ledger(self) -> Ledger:
        """Returns the ledger, read up to now."""
        return self.book.read()

    def starts(self, id: str) -> int:
        """Returns how often a task was started."""
        return len(self.ledger().by_id.get(id, ()))

    def wait_log(self, *words: str, timeout: float = 20.0) -> str:
        """Waits for a log line with all these words; returns it."""
        return wait_for(
            lambda: next((line for line in self.engine.log.splitlines() if all(word in line for word in words)), ""),
            f"a log line with {words}",
            timeout,
        )

    def places(self) -> dict[str, int]:
        """Returns how many messages there are in each place at the broker, without the places that are empty."""
        if isinstance(self.broker, VirtualHost):
            found = self.broker.places()
        else:
            counts = self.client.client.broker(lambda transport: transport.counts()).values()
            found = {place: sum(getattr(one, place) for one in counts) for place in PLACES}
        return {place: count for place, count in found.items() if count}

    def wait_empty(self, timeout: float = 20.0) -> None:
        """Waits until the broker has no message, not even a dead letter."""
        wait_for(lambda: not self.places(), "the broker to be empty", timeout)

    def pids(self) -> set[int]:
        """Returns the pids of all processes of the engine."""
        status = self.engine.status()
        return {row["pid"] for row in (*status["processes"], *status["slots"])}

    def close(self) -> None:
        """Ends everything."""
        if self._client is not None:
            self._client.close()
        for engine in self.engines:
            engine.close()
        if self.front is not None:
            self.front.close()
        self.broker.close()
