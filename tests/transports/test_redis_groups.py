"""Redis in groups: Sentinel, and Cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_rig import DEADLINE, QUEUE, ack_all, consumer_of, publish, record, take, worker

from engine.contract import Ack
from engine.errors import BrokerUnavailable, ConfigError
from engine_redis import RedisResults, RedisTransport
from servers import RedisServer, Sentinel, redis_server


def until(condition, what: str) -> None:  # type: ignore[no-untyped-def]  # any callable without arguments
    """Waits for something that other processes do."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE:g} s for: {what}"
        time.sleep(0.02)


class Group:
    """A primary, a replica, and a sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        self.servers = [RedisServer(_folder(folder, f"redis-{n}"), "--repl-diskless-sync-delay", "0") for n in range(2)]
        self.sentinel = Sentinel(_folder(folder, "sentinel"))

    def start(self) -> None:
        """Starts all three, and waits until the sentinel knows the replica."""
        primary, replica = self.servers
        for server in self.servers:
            server.start()
        replica.expect("REPLICAOF", "127.0.0.1", primary.port)
        until(lambda: replica.info().get("master_link_status") == "up", "the replica")
        self.sentinel.start()
        self.sentinel.expect("SENTINEL", "MONITOR", "group", "127.0.0.1", primary.port, 1)
        for option, value in (("down-after-milliseconds", 300), ("failover-timeout", 3000)):
            self.sentinel.expect("SENTINEL", "SET", "group", option, value)
        until(lambda: "slaves=1" in self.sentinel.info().get("master0", ""), "the sentinel to know the replica")

    def url(self) -> str:
        """The URL by way of a sentinel that is not there, and one that is."""
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.sentinel.port}/group/0"

    def stop(self) -> None:
        """Stops all."""
        for server in (self.sentinel, *self.servers):
            server.stop()


def _has_role(server: RedisServer, role: str) -> bool:
    """Whom a sentinel gives another role, it has close all its connections: also the one that asks here."""
    try:
        return server.info()["role"] == role
    except OSError:
        return False


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """A group of servers."""
    group = Group(tmp_path)
    try:
        group.start()
        yield group
    finally:
        group.stop()


def test_sentinels_name_the_primary_also_after_a_failover(group: Group) -> None:
    transport = RedisTransport(group.url(), options={"timeout": 2.0})
    transport.check()
    me = worker()
    consumer = consumer_of(transport, worker=me)
    publish(transport, "held", "ready")
    (held,) = take(consumer, 1)
    primary, replica = group.servers
    primary.expect("WAIT", 1, 5000)
    primary.kill()
    with pytest.raises(BrokerUnavailable):
        consumer.renew([held.claim])
    until(lambda: _has_role(replica, "master"), "the failover")

    def meets() -> bool:
        nonlocal consumer
        try:
            consumer = transport.consume([QUEUE], me)
            return [one.id for one in consumer.reconcile([held.claim]).held] == ["held"]
        except BrokerUnavailable:
            return False

    until(meets, "the sentinels to agree")
    assert consumer.settle([Ack(held.claim)]) == []
    assert ack_all(consumer, 1) == ["ready"]
    consumer.close()
    transport.close()


def test_a_primary_that_has_become_a_replica_is_left(group: Group) -> None:
    transport = RedisTransport(group.url(), options={"timeout": 2.0})
    publish(transport, "one")
    primary, replica = group.servers
    primary.expect("WAIT", 1, 5000)
    until(lambda: group.sentinel.command("SENTINEL", "FAILOVER", "group") == b"OK", "the sentinel to be ready for it")
    until(lambda: _has_role(replica, "master"), "the failover")
    until(lambda: _has_role(primary, "slave"), "the old primary to follow")

    def sent() -> bool:
        try:
            publish(transport, "two")
        except BrokerUnavailable:
            return False
        return True

    until(sent, "the new primary")
    assert transport.counts([QUEUE])[QUEUE].ready == 2
    transport.close()


def test_sentinels_that_know_no_such_group_are_named(group: Group) -> None:
    url = group.url().replace("/group/", "/other/")
    with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{group.sentinel.port}: knows no group 'other'"):
        RedisTransport(url, options={}).counts()


class Cluster:
    """Two nodes that share the slots."""

    def __init__(self, folder: Path) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        self.nodes = [RedisServer(_folder(folder, f"node-{n}"), *options) for n in range(2)]

    def start(self) -> None:
        """Starts the nodes and gives half the slots to each."""
        for node in self.nodes:
            node.start()
        first, second = self.nodes
        first.expect("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        second.expect("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        second.expect("CLUSTER", "SET-CONFIG-EPOCH", 2)
        first.expect("CLUSTER", "MEET", "127.0.0.1", second.port)
        for node in self.nodes:
            until(lambda node=node: b"cluster_state:ok" in node.expect("CLUSTER", "INFO"), "the cluster")

    def url(self, node: int) -> str:
        """The URL by way of a node that is not there, and one that is."""
        return f"redis+cluster://127.0.0.1:1,127.0.0.1:{self.nodes[node].port}"

    def move(self, slot: int) -> None:
        """Moves a slot from whoever has it to the other node; it stays in between until `moved`."""
        source, target = self._owners(slot)
        target.expect("CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
        source.expect("CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(target))

    def moved(self, slot: int) -> None:
        """Carries the keys over, and ends the move."""
        source, target = next((a, b) for a, b in (self.nodes, self.nodes[::-1]) if self._is_leaving(a, slot))
        keys = source.expect("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        assert isinstance(keys, list)
        if keys:
            source.expect("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source):
            node.expect("CLUSTER", "SETSLOT", slot, "NODE", self._id(target))

    def stop(self) -> None:
        """Stops the nodes."""
        for node in self.nodes:
            node.stop()

    def _owners(self, slot: int) -> tuple[RedisServer, RedisServer]:
        first, second = self.nodes
        return (first, second) if slot <= 8191 else (second, first)

    def _is_leaving(self, node: RedisServer, slot: int) -> bool:
        text = node.expect("CLUSTER", "NODES")
        assert isinstance(text, bytes)
        return f"[{slot}->-".encode() in text

    def _id(self, node: RedisServer) -> bytes:
        id = node.expect("CLUSTER", "MYID")
        assert isinstance(id, bytes)
        return id


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of two nodes."""
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.mark.parametrize("node", [0, 1])
def test_any_node_of_a_cluster_leads_to_the_one_that_has_the_namespace(cluster: Cluster, node: int) -> None:
    url = cluster.url(node)
    for namespace in ("engine", "shop", "a", "b"):
        options = {"namespace": namespace}
        transport = RedisTransport(url, options=options)
        results = RedisResults(url, expires=60, options=options)
        transport.check()
        assert transport.share_results(results)
        consumer = consumer_of(transport, QUEUE, "other")
        consumer.fetch(1, 0.05)
        publish(transport, "one")
        publish(transport, "two", queue="other", due=time.time() + 0.05)
        transport.broadcast(b"order")
        taken = take(consumer, 2)
        consumer.renew([taken[0].claim])
        assert list(consumer.takeover(3, 20)) == []
        assert consumer.settle([Ack(one.claim, record(one.id)) for one in taken]) == []
        assert sorted(one.id for one in results.wait(["one", "two"], 5)) == ["one", "two"]
        consumer.fetch(0, 0.05)
        consumer.close()
        transport.close()
        results.close()


def test_a_namespace_that_is_moved_to_another_node_pauses_and_goes_on(cluster: Cluster) -> None:
    transport = RedisTransport(cluster.url(0), options={})
    me = worker()
    consumer = consumer_of(transport, worker=me)
    publish(transport, "held", "ready")
    (held,) = take(consumer, 1)
    slot = cluster.nodes[0].expect("CLUSTER", "KEYSLOT", "{engine}:")
    assert isinstance(slot, int)
    cluster.move(slot)
    with pytest.raises(BrokerUnavailable, match="is moving the namespace to another node"):
        publish(transport, "refused")
    with pytest.raises(BrokerUnavailable, match="is moving the namespace to another node"):
        consumer.settle([Ack(held.claim)])
    cluster.moved(slot)
    publish(transport, "later")
    assert consumer.settle([Ack(held.claim)]) == []
    consumer = transport.consume([QUEUE], me)
    assert list(consumer.reconcile(()).lost) == []
    assert ack_all(consumer, 2) == ["ready", "later"]
    consumer.close()
    transport.close()


def test_a_cluster_that_is_down_is_said(cluster: Cluster) -> None:
    transport = RedisTransport(cluster.url(0), options={})
    transport.counts()
    cluster.nodes[1].kill()
    until(lambda: b"cluster_state:fail" in cluster.nodes[0].expect("CLUSTER", "INFO"), "the cluster to notice")  # type: ignore[operator]
    with pytest.raises(BrokerUnavailable, match=r"is a cluster that is down|Connection refused|closed"):
        transport.counts()
    transport.close()


def test_a_cluster_and_a_single_server_are_told_apart(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a node of a Cluster: write redis\+cluster://"):
        RedisTransport(cluster.nodes[0].url, options={}).check()
    with (
        redis_server(_folder(tmp_path, "single")) as server,
        pytest.raises(ConfigError, match="is no Cluster: write redis://"),
    ):
        RedisTransport(f"redis+cluster://127.0.0.1:{server.port}", options={}).check()
