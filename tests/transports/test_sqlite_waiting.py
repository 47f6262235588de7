"""Bells, clocks and what is forgotten in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlite_rig import SqliteRig

from engine.contract import Ack, Batch, Envelope, Record
from engine.testing.transport_suite_kit import wait_for
from engine_sqlite import bell, clock, consumer, members, messages
from engine_sqlite.bell import Bell
from engine_sqlite.choice import LINES
from engine_sqlite.clock import Clock


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SqliteRig]:
    """A file of the test's own."""
    rig = SqliteRig(tmp_path)
    yield rig
    rig.close()


def _deaf(self: Bell, timeout: float) -> bool:
    time.sleep(max(0.0, timeout))
    return False


def test_lost_bells_cost_time_only(rig: SqliteRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bell, "wait", _deaf)
    worker, results = rig.consumer(), rig.results()
    with ThreadPoolExecutor(2) as threads:
        fetched = threads.submit(worker.fetch, 1, 60)
        waited = threads.submit(lambda: list(results.wait(["one"], 60)))
        rig.publish("one")
        assert [delivery.id for delivery in fetched.result(15)] == ["one"]
        rig.results().store([Record("one", "SUCCESS", 1.0, 0, 1, b"", True)])
        assert [record.id for record in waited.result(15)] == ["one"]


def test_without_abstract_sockets_waiting_is_by_the_clock(rig: SqliteRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bell, "_HAS_ABSTRACT", False)
    worker = rig.consumer()
    with ThreadPoolExecutor(1) as lane:
        fetched = lane.submit(worker.fetch, 1, 60)
        rig.publish("one")
        assert [delivery.id for delivery in fetched.result(15)] == ["one"]
        fetched = lane.submit(worker.fetch, 1, 60)
        wait_for(lambda: worker.wake() or fetched.done(), "the end of the fetch")


def test_bells_of_the_dead_are_struck_off(rig: SqliteRig) -> None:
    rig.consumer()
    with rig.raw() as other:
        other.execute("UPDATE bell SET address = 'engine-sqlite-nobody'")
        rig.publish("one")
        assert other.execute("SELECT count(*) FROM bell WHERE topic = 'queue:default'").fetchall() == [(0,)]


def test_a_bell_that_cannot_be_struck_off_is_no_failure_of_what_it_told(rig: SqliteRig) -> None:
    rig.consumer()
    with rig.raw() as other:
        other.execute("UPDATE bell SET address = 'engine-sqlite-nobody'")
        other.execute("CREATE TRIGGER hold BEFORE DELETE ON bell BEGIN SELECT raise(ABORT, 'no'); END")
        rig.publish("one")
        other.execute("DROP TRIGGER hold")
    assert rig.transport.counts(["default"])["default"].ready == 1


def test_bells_of_another_network_are_left_alone(rig: SqliteRig) -> None:
    rig.consumer()
    with rig.raw() as other:
        other.execute("UPDATE bell SET address = 'engine-sqlite-nobody', space = 1")
        rig.publish("one")
        assert other.execute("SELECT count(*) FROM bell WHERE topic = 'queue:default'").fetchall() == [(1,)]


def test_a_bell_that_was_struck_off_is_listed_again_with_the_next_beat(rig: SqliteRig) -> None:
    worker = rig.consumer()
    with rig.raw() as other:
        other.execute("DELETE FROM bell")
        worker.renew([])
        assert other.execute("SELECT count(*) FROM bell WHERE topic = 'queue:default'").fetchall() == [(1,)]


def test_a_goodbye_takes_worker_and_bell_off_the_list(rig: SqliteRig) -> None:
    worker = rig.transport.consume(["default"], rig.worker())
    worker.fetch(0, 0)
    worker.close()
    with rig.raw() as other:
        assert other.execute("SELECT count(*) FROM bell").fetchall() == [(0,)]
        assert other.execute("SELECT count(*) FROM worker").fetchall() == [(0,)]


def test_more_rings_than_a_socket_holds_do_no_harm(rig: SqliteRig) -> None:
    worker = rig.consumer()
    for n in range(600):
        rig.publish(f"m{n}")
    assert len(worker.fetch(1000, 5)) == 600
    assert list(worker.fetch(10, 0.05)) == []


def test_small_steps_back_of_the_clock_are_resisted(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [1000.0]
    monkeypatch.setattr(clock.time, "time", lambda: told[0])
    mine = Clock()
    assert mine.now() == 1000.0
    told[0] = 970.0
    assert mine.now() == 1000.0
    told[0] = 1001.0
    assert mine.now() == 1001.0
    told[0] = 1001.0 - 86400
    assert mine.now() == 1001.0 - 86400


def test_a_clock_set_forward_wakes_what_is_due(rig: SqliteRig, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = rig.consumer()
    real = time.time
    rig.publish("tomorrow", due=real() + 86400)
    with ThreadPoolExecutor(1) as lane:
        fetched = lane.submit(worker.fetch, 1, 60)
        monkeypatch.setattr(clock.time, "time", lambda: real() + 86401)
        assert [delivery.id for delivery in fetched.result(15)] == ["tomorrow"]


def test_producers_commands_and_revocations_are_forgotten_in_time(
    rig: SqliteRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "TIDY_EVERY", 0.0)
    worker = rig.consumer()
    rig.transport.publish([Envelope(id="a", body=b"")], batch=Batch("old", 1))
    rig.transport.broadcast(b"old")
    rig.transport.revoke(["x"], time.time() + 10)
    with rig.raw() as other:
        other.execute("UPDATE producer SET at = at - 3700")
        other.execute("UPDATE command SET at = at - 3700")
        other.execute("UPDATE revoked SET until = until - 20")
        rig.transport.publish([Envelope(id="b", body=b"")], batch=Batch("new", 1))
        rig.transport.revoke(["y"], time.time() + 10)
        worker.renew([])
        assert other.execute("SELECT producer FROM producer").fetchall() == [("new",)]
        assert other.execute("SELECT count(*) FROM command").fetchall() == [(0,)]
        assert other.execute("SELECT id FROM revoked").fetchall() == [("y",)]


def test_expired_records_are_deleted_while_others_are_stored(rig: SqliteRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine_sqlite.records.PURGE_EVERY", 0.0)
    results = rig.results()
    results.store([Record(f"r{n}", "SUCCESS", 1.0, 0, 1, b"", True) for n in range(100)])
    with rig.raw() as other:
        other.execute("UPDATE result SET expires = expires - 100")
        for n in range(10):
            results.store([Record(f"new{n}{m}", "SUCCESS", 1.0, 0, 1, b"", True) for m in range(10)])
        assert other.execute("SELECT count(*) FROM result").fetchall() == [(100,)]


def test_a_retry_wakes_its_own_worker(rig: SqliteRig) -> None:
    worker = rig.consumer()
    rig.publish("one")
    (delivery,) = worker.fetch(1, 5)
    with ThreadPoolExecutor(1) as lane:
        fetched = lane.submit(worker.fetch, 1, 60)
        worker.settle([Ack(delivery.claim)])
        rig.publish("two")
        assert [d.id for d in fetched.result(15)] == ["two"]


def test_a_full_queue_costs_no_scan(rig: SqliteRig) -> None:
    rig.publish(*(f"m{n}" for n in range(50)))
    statements = [
        (consumer._LOOK, ("w", 10, '["default"]')),
        (messages._CLAIM, (1, 1, "[1]")),
        (messages._DELETE, ("[1]",)),
        (messages._PROMOTE, (1, 1.0)),
        (messages._HELD, ("[]", 0, 0.0, "[]", 0, 0.0, "[1]", "w")),
        (members._CLAIMS, (1,)),
        (members._TAKE_OVER, (1,)),
        (members.ANY_ORPHANS, ()),
    ]
    with rig.raw() as other:
        for statement, parameters in statements:
            plan = [row[3] for row in other.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            scans = [line for line in plan if line.startswith("SCAN message") and "INDEX" not in line]
            assert not scans, (statement, plan)
        plan = [row[3] for row in other.execute(f"EXPLAIN QUERY PLAN {LINES}", (10, '["default"]'))]
        assert not [line for line in plan if "TEMP B-TREE" in line], plan
