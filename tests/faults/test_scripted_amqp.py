"""The server of AMQP refuses, closes, blocks and cancels: at boot that is said and the engine ends with the status that
fits; while it runs it connects again, quietly, and nothing it was given is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults_rig import APP

from engine import Engine
from engine.contract import Batch, Envelope, Transport, Worker
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError
from engine.testing.faults.ledger import Ledger
from engine.testing.faults.scripted import ALWAYS, HANG_UP, RESET, RIGHT_THEN_HANG_UP, Answer
from engine.testing.faults.scripted_amqp import (
    GARBAGE,
    HALF_A_FRAME,
    ScriptedAmqp,
    closes_channel,
    closes_connection,
)
from engine.testing.harness import EngineProcess, toml, wait_for
from engine_rabbitmq import RabbitTransport

CONFIG, LATER = 78, 75
REFUSED = closes_connection(403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.")
NO_VHOST = closes_connection(530, "NOT_ALLOWED - vhost shop not found")
FORCED = closes_connection(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'")
FRAME_ERROR = closes_connection(501, "FRAME_ERROR - type 1, all octets = <<>>")
LOCKED = closes_channel(405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'default'")
PRECONDITION = closes_channel(406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'default'")
NOT_FOUND = closes_channel(404, "NOT_FOUND - no exchange 'engine.late' in vhost '/'")
NOT_ALLOWED = closes_channel(403, "ACCESS_REFUSED - access to queue 'default' refused for user 'guest'")
STARTING = closes_channel(
    404, "NOT_FOUND - home node 'shop@one' of durable queue 'engine.queues' in vhost '/' is down or inaccessible"
)
RIGHT = Answer(right=True)


@pytest.fixture
def server() -> Iterator[ScriptedAmqp]:
    """A server that is content."""
    with ScriptedAmqp() as server:
        yield server


@pytest.fixture
def transport(server: ScriptedAmqp) -> Iterator[Transport]:
    """A client of it."""
    transport = RabbitTransport(server.url, options={})
    yield transport
    transport.close()


def _publish(transport: Transport, number: int = 0) -> None:
    batch = Batch("test", number) if number else None
    transport.publish([Envelope("one", b"body of one", "default")], batch=batch)


@pytest.mark.parametrize(
    ("command", "answer", "says", "exception"),
    [
        ("Connection.StartOk", REFUSED, "wrong user or password", ConfigError),
        ("Connection.Open", NO_VHOST, "virtual host does not exist", ConfigError),
        ("Connection.Open", FORCED, "closed the connection (it shuts down", BrokerUnavailable),
        ("Connection.StartOk", FORCED, "closed the connection (it shuts down", BrokerUnavailable),
        ("Connection.StartOk", HANG_UP, "while it was being opened", BrokerUnavailable),
        ("Connection.Start", RESET, "is starting or going down, is no RabbitMQ", BrokerUnavailable),
        ("Connection.Start", GARBAGE, "is starting or going down, is no RabbitMQ", BrokerUnavailable),
        ("Queue.Declare", NOT_ALLOWED, "check user, password and permissions", ConfigError),
        ("Queue.Declare", LOCKED, "somebody else is at the same: try again", BrokerUnavailable),
        ("Basic.Consume", FRAME_ERROR, "carried what is not AMQP", BrokerUnavailable),
        ("Queue.Declare", HALF_A_FRAME, "EOF", BrokerUnavailable),
    ],
)
def test_what_the_server_refuses_is_said_when_it_is_checked(
    server: ScriptedAmqp,
    transport: Transport,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    answer: Answer,
    says: str,
    exception: type[Exception],
) -> None:
    monkeypatch.setattr("engine_rabbitmq.exclusive._TURN", 0.5)  # the one that is locked never gets its turn
    server.script(command, answer, times=ALWAYS)
    with pytest.raises(exception) as caught:
        transport.check()
    assert type(caught.value) is exception
    assert says in str(caught.value)
    assert "guest:guest" not in str(caught.value)


@pytest.mark.parametrize("answer", [FORCED, FRAME_ERROR, LOCKED, NOT_FOUND, HANG_UP, RESET, HALF_A_FRAME, GARBAGE,
                                    RIGHT_THEN_HANG_UP], ids=range(9))  # fmt: skip
def test_a_message_whose_publish_is_cut_short_is_sent_again_by_the_next(
    server: ScriptedAmqp, transport: Transport, answer: Answer
) -> None:
    _publish(transport)
    server.script("Basic.Publish", answer)
    with pytest.raises(BrokerUnavailable):
        _publish(transport)
    before = server.published.count(b"body of one")
    _publish(transport)
    assert server.published.count(b"body of one") == before + 1


def test_a_node_whose_streams_come_up_late_is_asked_again_over_the_same_connection(
    server: ScriptedAmqp, transport: Transport
) -> None:
    # The first declaration is that of the lock.
    server.script("Queue.Declare", RIGHT)
    server.script("Queue.Declare", STARTING, times=3)
    transport.check()
    assert server.finished


def test_a_node_that_does_not_finish_its_start_is_said(server: ScriptedAmqp, transport: Transport) -> None:
    server.script("Queue.Declare", RIGHT)
    server.script("Queue.Declare", STARTING, times=ALWAYS)
    with pytest.raises(BrokerUnavailable, match="has not finished its start"):
        transport.check()


def test_a_server_that_is_full_is_said_and_used_again_when_it_is_not(
    server: ScriptedAmqp, transport: Transport
) -> None:
    _publish(transport)
    server.block()
    with pytest.raises(BrokerFull, match="refuses messages"):
        _publish(transport, 7)
    server.unblock()
    _publish(transport, 7)
    assert server.published.count(b"body of one") == 2


@pytest.mark.parametrize("answer", [PRECONDITION, NOT_FOUND, FORCED], ids=["406", "404", "320"])
def test_a_fetch_that_is_cut_short_says_that_the_server_is_away(
    server: ScriptedAmqp, transport: Transport, answer: Answer
) -> None:
    consumer = transport.consume(["default"], Worker("worker", "host", "boot", "/none"))
    consumer.fetch(0, 0)
    server.script("Basic.Consume", answer)
    with pytest.raises(BrokerUnavailable):
        consumer.fetch(1, 1.0)
    again = transport.consume(["default"], Worker("worker", "host", "boot", "/none"))
    _publish(transport)
    assert [delivery.id for delivery in wait_for(lambda: again.fetch(1, 1.0), "the message")] == ["one"]


class Site:
    """An engine on a server of ours, and a client."""

    def __init__(self, folder: Path, server: ScriptedAmqp) -> None:
        self.server = server
        self.ledger = Ledger(folder)
        results = f"sqlite:///{folder}/results.db"
        self.engine = EngineProcess(folder, toml(APP, broker=server.url, results=results)).start()
        self.before = self.pids()
        self.client = Engine("client", broker=server.url, backend=results)

    def pids(self) -> set[int]:
        """All processes of the engine."""
        status = self.engine.status()
        return {row["pid"] for row in (*status["processes"], *status["slots"])}

    def run_one(self) -> str:
        """Sends a task and waits for its end; returns its id."""
        id: str = self.client.send_task("faults.sleep").get(timeout=20)
        return id

    def close(self) -> None:
        """Ends both."""
        self.client.close()
        self.engine.close()


@pytest.fixture
def site(tmp_path: Path, server: ScriptedAmqp) -> Iterator[Site]:
    """An engine that has run a task."""
    site = Site(tmp_path, server)
    try:
        site.run_one()
        yield site
    finally:
        site.close()


def _force(site: Site) -> None:
    for link in site.server.links():
        link.say(FORCED)


FAULTS: dict[str, Callable[[Site], None]] = {
    "the connections are closed": _force,
    "the connections are cut": lambda site: [link.end() for link in site.server.links()] and None,
    "the queue is deleted": lambda site: site.server.cancel("default"),
    "a channel is closed at the next acknowledgement": lambda site: site.server.script("Basic.Ack", PRECONDITION),
    "the connection is closed at the next acknowledgement": lambda site: site.server.script("Basic.Ack", FORCED),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_connects_again_and_goes_on(site: Site, fault: str) -> None:
    mark = len(site.engine.log)
    FAULTS[fault](site)
    site.run_one()
    wait_for(lambda: site.server.finished, "all of the script to be said")
    last = site.run_one()
    assert site.ledger.read().count()[last] == 1
    said = site.engine.log[mark:]
    assert site.pids() == site.before, said
    of_no_task = [line.split()[3] for line in said.splitlines() if "[faults.sleep " not in line]
    assert max(Counter(of_no_task).values()) < 5, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("command", "answer", "status", "says"),
    [
        ("Connection.StartOk", REFUSED, CONFIG, "wrong user or password"),
        ("Connection.Open", NO_VHOST, CONFIG, "virtual host does not exist"),
        ("Queue.Declare", NOT_ALLOWED, CONFIG, "check user, password and permissions"),
        ("Connection.StartOk", HANG_UP, LATER, "while it was being opened"),
        ("Connection.Open", FORCED, LATER, "it shuts down"),
    ],
)
def test_at_boot_it_is_said_and_the_status_tells_whether_to_try_again(
    tmp_path: Path, server: ScriptedAmqp, command: str, answer: Answer, status: int, says: str
) -> None:
    server.script(command, answer, times=ALWAYS)
    engine = EngineProcess(tmp_path, toml(APP, broker=server.url, results="sqlite:///results.db"))
    try:
        engine.start(wait=False)
        assert engine.wait(60) == status, engine.log
        assert says in engine.log
        assert "Traceback" not in engine.log
    finally:
        engine.close()
