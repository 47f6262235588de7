"""What is wrong with a file or its place is said in one sentence, and nothing is repaired."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlite_rig import SqliteRig

from engine.contract import Ack, Dead, Envelope
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError, TransportError
from engine_sqlite import SqliteResults, SqliteTransport, faults
from engine_sqlite.schema import VERSION, is_current
from engine_sqlite.session import Session


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SqliteRig]:
    """A file of the test's own."""
    rig = SqliteRig(tmp_path)
    yield rig
    rig.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/x.db", "sqlite:///x.db?mode=ro", "x.db"]
)
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///relative\.db"):
        SqliteTransport(url, options={})
    with pytest.raises(ConfigError, match=r"\[results\]"):
        SqliteResults(url, expires=1, options={})


def test_relative_and_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SqliteTransport("sqlite:///some.db", options={}).database.path == str(tmp_path / "some.db")
    assert SqliteTransport("sqlite:////srv/some.db", options={}).database.path == "/srv/some.db"


def test_an_unknown_durability_is_refused() -> None:
    with pytest.raises(ConfigError, match='"normal" or "full"'):
        SqliteTransport("sqlite:///x.db", options={"synchronous": "off"})


def test_opening_does_not_happen_before_the_first_use(rig: SqliteRig) -> None:
    rig.results()
    rig.transport.consume(["default"], rig.worker())
    assert not rig.path.exists()


def test_the_file_is_private(rig: SqliteRig) -> None:
    before = os.umask(0)
    try:
        rig.publish("one")
    finally:
        os.umask(before)
    for path in rig.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_file_that_others_can_read_is_told(rig: SqliteRig) -> None:
    assert list(rig.transport.check()) == []
    rig.path.chmod(0o644)
    (note,) = rig.transport.check()
    assert "can be read by others" in note


def _no_folder(path: Path) -> str:
    path.parent.rmdir()
    return "there is no folder"


def _is_folder(path: Path) -> str:
    path.mkdir()
    return "it is a folder"


def _garbage(path: Path) -> str:
    path.write_bytes(b"this is not a database, whatever it is called. " * 100)
    return "is damaged or no database"


def _foreign_tables(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customer (name)")
    connection.close()
    return "tables of another program"


def _newer_version(path: Path) -> str:
    transport = SqliteTransport(f"sqlite:///{path}", options={})
    transport.publish([Envelope(id="a", body=b"")])
    transport.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    return "update it"


def _damaged(path: Path) -> str:
    transport = SqliteTransport(f"sqlite:///{path}", options={})
    transport.publish([Envelope(id=f"id{n}", body=b"x" * 500) for n in range(200)])
    transport.close()
    with open(path, "r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(20 * 4096))
    return "damaged"


@pytest.mark.parametrize("step", [1, 2, 3])
def test_tables_that_another_process_creates_while_it_looks_are_its_own(rig: SqliteRig, step: int) -> None:
    connection = sqlite3.connect(rig.path, isolation_level=None)
    steps: list[str] = []

    def begins(statement: str) -> None:
        steps.append(statement)
        if len(steps) == step:
            rig.transport.publish([Envelope(id="a", body=b"")])

    connection.set_trace_callback(begins)
    is_current(connection, str(rig.path))
    connection.set_trace_callback(None)
    assert is_current(connection, str(rig.path)) == (len(steps) >= step)
    connection.close()


@pytest.mark.parametrize("spoil", [_no_folder, _is_folder, _garbage, _foreign_tables, _newer_version, _damaged])
def test_check_refuses_what_cannot_be_used(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    path = tmp_path / "folder" / "engine.db"
    path.parent.mkdir()
    sentence = spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    for opened in (
        SqliteTransport(f"sqlite:///{path}", options={}),
        SqliteResults(f"sqlite:///{path}", expires=1, options={}),
    ):
        with pytest.raises(ConfigError, match=sentence) as caught:
            opened.check()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        opened.close()
    assert not path.is_file() or path.read_bytes() == before, "the file was changed"


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that another user may only look into; root becomes that user."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    if os.geteuid() != os.getuid():
        os.seteuid(os.getuid())
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_file_that_cannot_be_written_is_told(unprivileged: Path) -> None:
    rig = SqliteRig(unprivileged)
    rig.publish("one")
    rig.transport.close()
    rig.path.chmod(0o444)
    unprivileged.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    for client in (rig.connect(), rig.results()):
        with pytest.raises(ConfigError, match=r"cannot be (written|opened)") as caught:
            client.check()
        assert str(rig.path) in str(caught.value)
    rig.close()


def test_a_damaged_file_met_later_is_a_transport_error(rig: SqliteRig) -> None:
    rig.publish(*(f"id{n}" for n in range(500)))
    rig.transport.close()
    with open(rig.path, "r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(30 * 4096))
    with pytest.raises(TransportError, match="Nothing was repaired") as caught:
        rig.publish(*(f"new{n}" for n in range(500)))
    assert not isinstance(caught.value, BrokerUnavailable)


def test_a_file_that_stays_locked_is_unavailable(rig: SqliteRig) -> None:
    rig.publish("one")
    impatient = rig.connect(busy_timeout=0.05)
    with rig.raw() as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BrokerUnavailable, match="locked"):
            impatient.publish([Envelope(id="two", body=b"")])
        with pytest.raises(BrokerUnavailable, match="locked"):
            impatient.check()
        assert impatient.counts(["default"])["default"].ready == 1
        other.execute("ROLLBACK")
    impatient.publish([Envelope(id="two", body=b"")])
    assert rig.transport.counts(["default"])["default"].ready == 2


def test_a_full_disk_is_broker_full_and_nothing_was_written(rig: SqliteRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.publish("held")
    consumer = rig.consumer()
    (held,) = consumer.fetch(1, 5)
    opened = Session._open

    def small(session: Session) -> sqlite3.Connection:
        connection = opened(session)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        return connection

    monkeypatch.setattr(Session, "_open", small)
    with pytest.raises(BrokerFull, match="free some space"):
        rig.transport.publish([Envelope(id=f"big{n}", body=b"x" * 5000) for n in range(100)])
    rig.publish("small")
    assert list(consumer.settle([Ack(held.claim)])) == []
    monkeypatch.undo()
    assert [delivery.id for delivery in consumer.fetch(10, 1)] == ["small"]


def test_a_file_that_was_replaced_is_opened_anew(rig: SqliteRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine_sqlite.session._LOOK_AT_FILE", 0.0)
    rig.publish("old")
    consumer = rig.consumer()
    (old,) = consumer.fetch(1, 5)
    for path in [*rig.path.parent.glob("engine.db*")]:
        path.unlink()
    rig.connect().publish([Envelope(id="new", body=b"")])
    assert [delivery.id for delivery in consumer.fetch(10, 5)] == ["new"]
    assert list(consumer.settle([Ack(old.claim)])) == [old.claim]


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/data/jobs", "nfs4"), ("/data", "nfs4"), ("/database", "ext4"), ("/my disk/x", "cifs"), ("/", "ext4")],
)
def test_the_file_system_of_a_folder(folder: str, kind: str) -> None:
    mounts = (
        "22 1 254:1 / / rw - ext4 /dev/root rw\n"
        "30 22 0:30 / /data rw shared:1 - nfs4 server:/data rw\n"
        "31 22 0:31 / /my\\040disk rw - cifs //server/disk rw\n"
        "garbage\n"
    )
    assert faults.filesystem_of(folder, mounts) == kind


def test_a_network_file_system_is_refused(rig: SqliteRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "filesystem_of", lambda folder, mounts: "nfs")
    with pytest.raises(ConfigError, match="network file system"):
        rig.transport.check()
    with pytest.raises(ConfigError, match="network file system"):
        rig.publish("one")
    assert not rig.path.exists()


def test_an_old_library_is_refused(rig: SqliteRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    with pytest.raises(ConfigError, match="too old"):
        rig.transport.check()


GARBAGE = [
    ("x", "default", b"\xff\xfe not UTF-8", 0),
    ("y", "default", "text, where bytes belong", 0),
    ("z", "default", b"", "high"),
    (b"\xff\x00\xfe", "default", b"blob id", 3),
    (12345, "default", 67890, 10**9),
    ("nul\x00in id", "default", b"nul\x00in body", -5),
]


def test_rows_from_foreign_hands_never_stop_a_fetch(rig: SqliteRig) -> None:
    rig.publish("before")
    with rig.raw() as other:
        other.executemany("INSERT INTO message (id, queue, body, priority) VALUES (?, ?, ?, ?)", GARBAGE)
        other.execute("INSERT INTO message (id, body) VALUES (CAST(x'c328' AS TEXT), 'invalid UTF-8 in the id')")
        other.execute("INSERT INTO message (id, body, deliveries, crashes) VALUES ('w', x'00', 'many', x'01')")
    rig.publish("after")
    consumer = rig.consumer()
    taken = {delivery.id: delivery for delivery in consumer.fetch(100, 5)}
    assert len(taken) == len(GARBAGE) + 4
    assert taken["before"].body == b"before"
    assert taken["x"].body == b"\xff\xfe not UTF-8"
    assert taken["y"].body == b"text, where bytes belong"
    assert taken["12345"].body == b"67890"
    assert all(isinstance(d.body, bytes) and isinstance(d.deliveries, int) for d in taken.values())
    assert list(consumer.settle([Dead(delivery.claim, "malformed") for delivery in taken.values()])) == []
    letters = rig.transport.dead()
    assert len(letters) == len(taken)
    assert all(isinstance(letter.id, str) and isinstance(letter.body, bytes) for letter in letters)
    assert rig.transport.replay([letter.id for letter in letters]) >= 6


def test_listings_stand_what_foreign_hands_wrote(rig: SqliteRig) -> None:
    rig.publish("before")
    with rig.raw() as other:
        other.execute("INSERT INTO message (id, queue, body) VALUES (x'ff00', x'fe', 'x')")
        other.execute("INSERT INTO message (id, state, due, body) VALUES (CAST(x'c328' AS TEXT), 1, 'never', 'x')")
    assert rig.transport.counts()["\\xfe"].ready == 1
    assert [one.id for one in rig.transport.scheduled()] == ["\\xc3("]
    with rig.raw() as other:
        other.execute("INSERT INTO worker VALUES (77, x'fe', 'h', 'b', 'nul' || char(0), 'soon', 'many', 'never')")
    consumer = rig.consumer()
    consumer.takeover(3, 20)
    assert [delivery.id for delivery in consumer.fetch(10, 0.05)] == ["before"]
    assert rig.transport.purge("default") == 1


def test_claims_that_nobody_owns_are_released(rig: SqliteRig) -> None:
    rig.publish("one", "two")
    with rig.raw() as other:
        other.execute("UPDATE message SET state = 2, owner = 999, claim = 5 WHERE id = 'one'")
        other.execute("UPDATE message SET state = 2 WHERE id = 'two'")
    consumer = rig.consumer()
    assert list(consumer.fetch(10, 0)) == []
    consumer.takeover(3, 20)
    assert sorted(delivery.id for delivery in consumer.fetch(10, 5)) == ["one", "two"]
