"""The suite catches a transport that says of itself what is not so."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import suite_liars

from engine.contract import Capabilities, ResultBackend, Transport
from engine.testing.transport_suite import TransportSuite
from engine.testing.transport_suite_kit import Rig

CATCHES = {
    "broadcasts": "test_commands_reach_every_worker_that_is_up_or_the_flag_says_no",
    "delays": "test_a_delayed_message_is_held_until_it_is_due_or_the_flag_says_no",
    "durable": "test_what_was_published_survives_its_publisher_or_the_flag_says_no",
    "finds": "test_find_says_where_a_message_is_or_the_flag_says_no",
    "in_process": "test_other_processes_see_what_is_there_or_the_flag_says_no",
    "keeps_claims": "test_claims_outlive_the_dispatcher_or_the_flag_says_no",
    "lists_scheduled": "test_scheduled_lists_what_is_delayed_or_the_flag_says_no",
    "prioritises": "test_a_higher_priority_goes_first_across_queues_or_the_flag_says_no",
    "publishes_once": "test_a_batch_repeated_under_its_number_is_published_once_or_the_flag_says_no",
    "revokes": "test_a_revoked_message_is_known_when_it_comes_later_or_the_flag_says_no",
    "stores_results": "test_records_are_stored_with_the_settlement_or_the_flag_says_no",
}
"""The test that catches a flag that is not so. ``other_hosts`` and ``settles_retry_atomically`` cannot be told from
outside when they say False."""


@pytest.fixture(params=["memory", "sqlite"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Transport, ResultBackend]]:
    """A transport that may lie, and its results."""
    kind, results = suite_liars.PAIRS[request.param]
    url = f"memory://{tmp_path}" if request.param == "memory" else f"sqlite:///{tmp_path}/x.db"
    made = (kind(url, options={}), results(url, expires=60, options={}))
    yield made
    for one in made:
        one.close()


def _passes(test: str, pair: tuple[Transport, ResultBackend], folder: Path) -> bool:
    known: dict[str, Any] = {"rig": Rig(pair[0], folder, {}), "results": pair[1]}
    method = getattr(TransportSuite(), test)
    with contextlib.closing(known["rig"]):
        try:
            method(**{argument: known[argument] for argument in inspect.signature(method).parameters})
        except AssertionError:
            return False
    return True


def test_every_test_of_a_flag_is_known_here() -> None:
    honest = {name for name in dir(TransportSuite) if name.endswith("or_the_flag_says_no")}
    assert honest == set(CATCHES.values())
    untold = {"other_hosts", "settles_retry_atomically"}
    assert set(CATCHES) | untold == set(Capabilities.__struct_fields__)


@pytest.mark.parametrize("flag", CATCHES)
def test_a_flag_that_is_not_so_fails(
    pair: tuple[Transport, ResultBackend], tmp_path: Path, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(pair[0])
    lie = {flag: not getattr(kind.capabilities, flag)}
    monkeypatch.setattr(kind, "capabilities", msgspec.structs.replace(kind.capabilities, **lie))
    assert not _passes(CATCHES[flag], pair, tmp_path)
