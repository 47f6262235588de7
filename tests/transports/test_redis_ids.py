"""Ids at Redis: a UUID is kept as its 16 bytes, and shown as text everywhere."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis_rig import QUEUE, ack_all, consumer_of, publish, record, take, worker

from engine.app.calls import new_id
from engine.contract import Ack, Again, Dead, Envelope, Release
from engine_redis import RedisResults, RedisTransport
from engine_redis.packing import pack_id, unpack_id
from servers import RedisServer, redis_server

AWKWARD = [
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "20202020-2020-2020-2020-202020202020",
    "0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a",
    "35203520-3a30-350a-ff20-ff350a000a20",
    "one",
    "5 6",
    " 7",
    "8\nnine\x00",
    "\u00ff" * 8,
    "x" * 60,
]
"""What could be taken apart in the wrong place: as bytes they are zeros, marks, spaces, lines, digits."""
TEXTS = [
    "019A2B3C-4D5E-7F60-A123-0A20FF0D0000",
    "019a2b3c4d5e7f60a1230a20ff0d0000",
    "{19a2b3c-4d5e-7f60-a123-0a20ff0d000}",
    "019a2b3-c4d5e-7f60-a123-0a20ff0d0000",
    "019a2b3c-4d5e-7f60-a123-0a20ff0d000-",
    "019a2b3c-4d5e-7f60-a123-0a20ff0d000g",
    "019a2b3c-4d5e-7f60-a123-0a20ff0d 000",
    "019a2b3c-4d5e-7f60-a123-0a20ff0d000\u0660",
    "",
]
"""Ids that are none of the UUIDs that are shortened, however much they look so."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of this file's own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """The server, empty."""
    shared.expect("FLUSHALL")
    return shared


@pytest.fixture
def transport(server: RedisServer) -> Iterator[RedisTransport]:
    """A client."""
    transport = RedisTransport(server.url, options={})
    yield transport
    transport.close()


@given(st.uuids())
def test_a_uuid_takes_17_bytes(id: uuid.UUID) -> None:
    assert pack_id(str(id)) == b"\xff" + id.bytes
    assert unpack_id(pack_id(str(id))) == str(id)


@given(st.one_of(st.text(), st.from_regex(r"[0-9a-fA-F-]{36}", fullmatch=True)))
def test_any_other_id_is_kept_as_it_is(id: str) -> None:
    assert unpack_id(pack_id(id)) == id


@pytest.mark.parametrize("id", TEXTS)
def test_what_only_looks_like_a_uuid_is_text(id: str) -> None:
    assert pack_id(id) == id.encode()


def test_an_id_that_the_engine_makes_is_short_wherever_it_waits(server: RedisServer, transport: RedisTransport) -> None:
    id = new_id()
    publish(transport, id)
    assert server.expect("HKEYS", "{engine}:messages") == [pack_id(id)]
    (entry,) = server.expect("LRANGE", "{engine}:ready:0:default", 0, -1)  # type: ignore[misc]
    assert entry == b"1" + pack_id(id)
    assert len(entry) == 18


@pytest.mark.parametrize("id", AWKWARD)
def test_an_id_comes_back_from_everywhere(server: RedisServer, transport: RedisTransport, id: str) -> None:
    results = RedisResults(server.url, expires=60, options={})
    assert transport.share_results(results)
    publish(transport, id, due=time.time() + 3600)
    publish(transport, id)
    assert [one.id for one in transport.scheduled()] == [id]
    found = transport.find(id)
    assert found is not None
    assert (found.id, found.place) == (id, "delayed")
    assert [one.id for one in transport.revoke([id], time.time())] == [id]
    publish(transport, id)
    consumer = consumer_of(transport)
    (held,) = take(consumer, 1)
    (again,) = consumer.reconcile([held.claim]).held
    assert (held.id, again.id, again.claim) == (id, id, held.claim)
    assert consumer.settle([Release(held.claim, time.time() + 0.01, "delivery")]) == []
    (held,) = take(consumer, 1)
    assert (held.id, held.deliveries) == (id, 2)
    assert consumer.settle([Again(held.claim, Envelope(id, b"again", QUEUE))]) == []
    (held,) = take(consumer, 1)
    assert consumer.settle([Dead(held.claim, "reason")]) == []
    letter = transport.dead_letter(id)
    assert letter is not None
    assert [one.id for one in transport.dead()] == [letter.id] == [id]
    assert transport.replay([id]) == 1
    (held,) = take(consumer, 1)
    assert consumer.settle([Ack(held.claim, record(id))]) == []
    assert list(results.get([id])) == [id]
    assert server.expect("EXISTS", f"{{engine}}:result:{id}") == 1, "the name of a result is text"
    assert server.expect("EXISTS", "{engine}:messages", "{engine}:tallies", "{engine}:letters") == 0
    consumer.close()
    results.close()


@pytest.mark.parametrize("id", AWKWARD)
def test_an_id_comes_back_from_the_dead(transport: RedisTransport, id: str) -> None:
    gone = worker(host="elsewhere", boot_id="before", dead_after=0.0)
    consumer = consumer_of(transport, worker=gone)
    publish(transport, id, id + "'s successor")
    take(consumer, 2)
    heir = consumer_of(transport, worker=worker(host="elsewhere", boot_id="after"))
    (taken,) = heir.takeover(20, 1)
    assert sorted(one.id for one in taken.dead) == sorted([id, id + "'s successor"])
    assert transport.drop([id]) == 1
    publish(transport, id)
    assert ack_all(heir, 1) == [id]
    publish(transport, id)
    assert transport.purge(QUEUE) == 1
    heir.close()
