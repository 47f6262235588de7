"""The conformance suite of result backends.

A backend's test file is a subclass with a fixture::

    class TestMine(ResultsSuite):
        @pytest.fixture
        def results(self):
            results = MyResults("mine://localhost/test", expires=60, options={})
            yield results
            results.close()
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import msgspec
import pytest

from engine.contract import Record, ResultBackend
from engine.testing.transport_suite_kit import LONGEST_WAIT, SOON, Waiting, wait_for

_STORE = """
import importlib, json, sys
order = json.loads(sys.argv[1])
kind = getattr(importlib.import_module(order["module"]), order["name"])
results = kind(order["url"], expires=60, options=order["options"])
from engine.contract import Record
results.store([Record(order["id"], "SUCCESS", 1.0, 0, 1, b"from elsewhere", True)])
"""


class ResultsSuite:
    """All tests. Override the fixture ``results``."""

    options: ClassVar[Mapping[str, Any]] = {}
    """The options that ``results`` was made with: other clients are made with the same."""

    @pytest.fixture
    def results(self) -> Iterator[ResultBackend]:
        """The backend under test, at a server of its own, keeping records for at least 60 s. Close it behind."""
        raise NotImplementedError("override the fixture `results`")

    def another(self, results: ResultBackend, expires: float = 60.0) -> ResultBackend:
        """Returns another client of the same server."""
        return type(results)(results.url, expires=expires, options=self.options)

    def test_a_record_comes_back_as_it_was_stored(self, results: ResultBackend) -> None:
        body = bytes(range(256)) + "ünïcode".encode()
        records = [
            Record("final", "SUCCESS", 1780000000.123457, 2, 3, body, final=True),
            Record("custom", "HALF WAY", 1780000000.123457, 0, 1, b"{}"),
        ]
        results.store(records)
        assert results.get(["final", "custom", "unknown"]) == {"final": records[0], "custom": records[1]}
        assert results.get([]) == {}

    def test_storing_nothing_is_no_error(self, results: ResultBackend) -> None:
        results.store([])

    @pytest.mark.parametrize("older", [(1.0, 9, 9), (2.0, 1, 9), (2.0, 2, 1)])
    def test_an_older_record_never_overwrites_a_newer_one(self, results: ResultBackend, older: Any) -> None:
        newer = _record(order=(2.0, 2, 2), body=b"newer")
        results.store([newer])
        results.store([_record(order=older, body=b"older")])
        assert results.get(["id"])["id"].body == b"newer"
        results.store([_record("other", order=(2.0, 2, 2)), _record("other", order=older, body=b"older")])
        assert results.get(["other"])["other"].order == (2.0, 2, 2)

    @pytest.mark.parametrize("newer", [(2.0, 2, 2), (2.0, 2, 3), (2.0, 3, 1), (3.0, 0, 1)])
    def test_an_equal_or_newer_record_overwrites(self, results: ResultBackend, newer: Any) -> None:
        results.store([_record(order=(2.0, 2, 2), body=b"old", final=True)])
        results.store([_record(order=newer, body=b"new", state="RETRY", final=False)])
        record = results.get(["id"])["id"]
        assert (record.body, record.order, record.state, record.final) == (b"new", newer, "RETRY", False)

    def test_records_are_written_in_the_order_given(self, results: ResultBackend) -> None:
        states = ["STARTED", "HALF", "SUCCESS"]
        results.store([_record(state=state, body=state.encode()) for state in states])
        assert results.get(["id"])["id"].body == b"SUCCESS"

    def test_many_records_in_one_call(self, results: ResultBackend) -> None:
        ids = [f"r{n}" for n in range(1000)]
        results.store([_record(id, body=id.encode(), final=True) for id in ids])
        assert {id: record.body.decode() for id, record in results.get(ids).items()} == {id: id for id in ids}
        assert {record.id for record in results.wait(ids, 5)} == set(ids)

    def test_a_large_record(self, results: ResultBackend) -> None:
        body = bytes(range(256)) * 32768
        results.store([_record(body=body, final=True)])
        assert results.get(["id"])["id"].body == body

    def test_keep_false_removes(self, results: ResultBackend) -> None:
        results.store([_record(order=(2.0, 0, 1)), _record("other")])
        results.store([_record(order=(2.0, 0, 1), keep=False)])
        assert set(results.get(["id", "other"])) == {"other"}
        results.store([_record("unknown", keep=False)])
        assert results.get(["unknown"]) == {}

    def test_keep_false_does_not_remove_what_is_newer(self, results: ResultBackend) -> None:
        results.store([_record(order=(2.0, 0, 2))])
        results.store([_record(order=(2.0, 0, 1), keep=False)])
        assert set(results.get(["id"])) == {"id"}

    def test_what_was_removed_does_not_come_back_from_an_older_run(self, results: ResultBackend) -> None:
        results.store([_record(order=(2.0, 0, 2)), _record(order=(2.0, 0, 2), keep=False)])
        results.store([_record(order=(2.0, 0, 1), state="STARTED")])
        assert results.get(["id"]) == {}
        results.store([_record(order=(2.0, 1, 1), state="STARTED")])
        assert set(results.get(["id"])) == {"id"}

    def test_forget(self, results: ResultBackend) -> None:
        results.store([_record(), _record("other")])
        results.forget(["id", "unknown"])
        assert set(results.get(["id", "other"])) == {"other"}
        results.forget([])

    def test_records_expire(self, results: ResultBackend) -> None:
        brief = self.another(results, expires=0.2)
        brief.store([_record("brief", final=True)])
        results.store([_record("long", final=True)])
        wait_for(lambda: not results.get(["brief"]), "the expiry")
        results.store([_record(f"r{n}") for n in range(20)])
        assert set(results.get(["brief", "long"])) == {"long"}
        brief.close()

    def test_wait_yields_what_is_there_at_once(self, results: ResultBackend) -> None:
        results.store([_record("a", final=True), _record("b", final=True), _record("c")])
        assert {record.id for record in results.wait(["a", "b"], 0)} == {"a", "b"}
        assert {record.id for record in results.wait(["a", "c", "unknown"], 0)} == {"a"}
        assert list(results.wait([], 60)) == []
        assert [record.id for record in results.wait(["a", "a"], 60)] == ["a"]

    def test_wait_ends_at_its_timeout(self, results: ResultBackend) -> None:
        before = time.monotonic()
        assert list(results.wait(["never"], 0.3)) == []
        assert time.monotonic() - before >= 0.29

    def test_wait_yields_only_final_records(self, results: ResultBackend) -> None:
        other = self.another(results)
        results.store([_record(state="STARTED")])
        with ThreadPoolExecutor(1) as client:
            waiting = Waiting(client, lambda: list(results.wait(["id"], LONGEST_WAIT)), "wait()")
            other.store([_record(state="SUCCESS")])
            other.store([_record(state="SUCCESS", final=True, body=b"end")])
            assert [record.body for record in waiting.result("the store of a final record")] == [b"end"]
        other.close()

    def test_wait_yields_each_as_it_comes(self, results: ResultBackend) -> None:
        other = self.another(results)
        ids = [f"r{n}" for n in range(10)]
        yielded: list[str] = []
        seen = threading.Semaphore(0)

        def wait() -> None:
            for record in results.wait(ids, 4 * LONGEST_WAIT):
                yielded.append(record.id)
                seen.release()

        client = threading.Thread(target=wait)
        client.start()
        for id in ids:
            other.store([_record(id, final=True)])
            assert seen.acquire(timeout=SOON), f"{id} was not yielded within {SOON:g} s of its store; {yielded} were"
        client.join(SOON)
        assert yielded == ids
        other.close()

    def test_wait_hears_of_other_processes(self, results: ResultBackend) -> None:
        if results.in_process:
            pytest.skip("no other process can store here")
        with ThreadPoolExecutor(1) as client:
            waiting = Waiting(client, lambda: list(results.wait(["afar"], 2 * LONGEST_WAIT)), "wait()")
            _store_elsewhere(results, self.options, "afar")
            assert [record.body for record in waiting.result("a store by another process")] == [b"from elsewhere"]

    def test_stored_records_survive_the_process_or_it_says_in_process(self, results: ResultBackend) -> None:
        _store_elsewhere(results, self.options, "afar")
        assert bool(results.get(["afar"])) != results.in_process

    def test_check_passes_and_closing_twice_does_no_harm(self, results: ResultBackend) -> None:
        client = self.another(results)
        assert all(isinstance(note, str) for note in client.check())
        client.close()
        client.close()


def _record(
    id: str = "id",
    *,
    order: tuple[float, int, int] = (1.0, 0, 1),
    state: str = "SUCCESS",
    body: bytes = b"{}",
    final: bool = False,
    keep: bool = True,
) -> Record:
    return Record(id, state, *order, body if keep else b"", final, keep)


def _store_elsewhere(results: ResultBackend, options: Mapping[str, Any], id: str) -> None:
    kind = type(results)
    order = {"module": kind.__module__, "name": kind.__name__, "url": results.url, "options": dict(options), "id": id}
    subprocess.run(
        [sys.executable, "-c", _STORE, msgspec.json.encode(order).decode()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        timeout=60,
    )
