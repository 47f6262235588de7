"""Which servers the Redis transport takes, which it refuses, and what it says."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_rig import QUEUE, ack_all, consumer_of, publish, record, take

from engine.contract import Ack, Worker
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError, TransportError
from engine.testing.faults.scripted import ALWAYS, Answer
from engine.testing.faults.scripted_redis import GARBAGE, ScriptedRedis, error
from engine_redis import RedisResults, RedisTransport, failures
from engine_redis.address import parse
from servers import RedisServer, redis_server

RIGHTS = "-@all +@read +@write +@scripting +@pubsub +@connection -@dangerous +time +info +config|get +role"
ACL = f"~{{engine}}:* &{{engine}}:* {RIGHTS}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of this file's own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> Iterator[RedisServer]:
    """The server, empty and as it was started."""
    shared.expect("FLUSHALL")
    yield shared
    shared.expect("CONFIG", "SET", "maxmemory-policy", "noeviction")
    shared.expect("REPLICAOF", "NO", "ONE")
    shared.expect("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all")
    shared.expect("ACL", "DELUSER", "worker")


def test_a_server_without_persistence_is_pointed_out(server: RedisServer) -> None:
    (note,) = RedisTransport(server.url, options={}).check()
    assert "[broker] redis at 127.0.0.1" in note
    assert "appendonly yes" in note
    (note,) = RedisResults(server.url, expires=60, options={}).check()
    assert note.startswith("[results]")


def test_a_server_with_persistence_is_fine(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--appendonly", "yes") as server:
        assert RedisTransport(server.url, options={}).check() == []
        server.expect("CONFIG", "SET", "appendfsync", "no")
        (note,) = RedisTransport(server.url, options={}).check()
        assert "appendfsync no" in note


def test_a_server_that_throws_tasks_away_is_refused(server: RedisServer) -> None:
    server.expect("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match=r"allkeys-lru, which throws queued tasks away.*set it to noeviction"):
        RedisTransport(server.url, options={}).check()
    server.expect("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    assert any("volatile-lru" in note for note in RedisTransport(server.url, options={}).check())


def test_a_replica_is_refused_and_its_primary_named(server: RedisServer, tmp_path: Path) -> None:
    with redis_server(tmp_path) as primary:
        server.expect("REPLICAOF", "127.0.0.1", primary.port)
        with pytest.raises(
            ConfigError, match=f"is a replica: write the address of its primary, 127.0.0.1:{primary.port}"
        ):
            RedisTransport(server.url, options={}).check()
        with pytest.raises(BrokerUnavailable, match="is a replica, which takes no writes"):
            publish(RedisTransport(server.url, options={}), "one")


def test_a_wrong_password_is_said_and_not_shown(server: RedisServer) -> None:
    server.expect("ACL", "SETUSER", "worker", "on", ">secret", *ACL.split(" "))
    server.expect("ACL", "SETUSER", "default", "resetpass", ">other")
    host = f"127.0.0.1:{server.port}/0"
    for url, words in {
        f"redis://{host}": "wants a password: put it into the URL",
        f"redis://worker:hunter2@{host}": "refuses this user name and password",
        f"redis://:hunter2@{host}": "refuses this user name and password",
    }.items():
        with pytest.raises(ConfigError, match=words) as caught:
            RedisTransport(url, options={}).check()
        assert "hunter2" not in str(caught.value)
        with pytest.raises(BrokerUnavailable, match=words):
            RedisTransport(url, options={}).counts()


def test_a_password_that_nobody_asked_for_is_said(server: RedisServer) -> None:
    with pytest.raises(ConfigError, match=r"has no password set for this user|refuses this user name"):
        RedisTransport(f"redis://:hunter2@127.0.0.1:{server.port}/0", options={}).check()


def test_a_user_with_the_rights_that_the_readme_names_can_do_everything(server: RedisServer) -> None:
    readme = (Path(__file__).parents[2] / "transports/engine_redis/README.md").read_text()
    assert ACL in readme
    server.expect("ACL", "SETUSER", "worker", "on", ">p@ss:w/rd", *ACL.split(" "))
    url = f"redis://worker:p%40ss%3Aw%2Frd@127.0.0.1:{server.port}/0"
    transport = RedisTransport(url, options={})
    results = RedisResults(url, expires=60, options={})
    transport.check()
    assert transport.share_results(results)
    consumer = consumer_of(transport)
    consumer.fetch(1, 0.05)
    publish(transport, "one")
    publish(transport, "two", due=time.time() + 3600)
    transport.revoke(["two"], time.time() + 60)
    transport.broadcast(b"order")
    (one,) = take(consumer, 1)
    consumer.renew([one.claim])
    consumer.takeover(3, 20)
    consumer.fetch(0, 0.05)
    assert consumer.settle([Ack(one.claim, record("one"))]) == []
    assert [found.id for found in results.wait(["one"], 5)] == ["one"]
    assert list(results.wait(["never"], 0.1)) == []
    results.forget(["one"])
    consumer.close()
    transport.close()
    results.close()


def test_a_user_without_rights_is_told_which(server: RedisServer) -> None:
    server.expect("ACL", "SETUSER", "worker", "on", ">secret", "~other:*", "+@all")
    with pytest.raises(ConfigError, match="does not permit this user what the engine needs"):
        RedisTransport(f"redis://worker:secret@127.0.0.1:{server.port}/0", options={}).check()


def test_a_user_who_lacks_one_command_is_told_which(server: RedisServer) -> None:
    server.expect("ACL", "SETUSER", "worker", "on", ">secret", *ACL.split(" "), "-lpop")
    with pytest.raises(ConfigError, match=r"does not permit this user.*LPOP \{engine\}:probe"):
        RedisTransport(f"redis://worker:secret@127.0.0.1:{server.port}/0", options={}).check()


def test_a_database_that_does_not_exist_is_said(server: RedisServer) -> None:
    with pytest.raises(ConfigError, match="has no database of that number"):
        RedisTransport(f"redis://127.0.0.1:{server.port}/99", options={}).check()


def test_nobody_there(tmp_path: Path) -> None:
    for url in ("redis://127.0.0.1:1/0", f"redis+unix://{tmp_path}/none.sock", "redis://no-such-host.invalid:6379/0"):
        transport = RedisTransport(url, options={"timeout": 2.0})
        for call in (transport.check, transport.counts):
            with pytest.raises(BrokerUnavailable, match="redis at"):
                call()


def test_a_server_that_is_no_redis(tmp_path: Path) -> None:
    with _answering(GARBAGE) as redis, pytest.raises(BrokerUnavailable, match="does not speak"):
        RedisTransport(redis.url, options={}).counts()


def _answering(answer: Answer) -> ScriptedRedis:
    redis = ScriptedRedis()
    redis.script("", answer, times=ALWAYS)
    return redis


@pytest.mark.parametrize(
    ("text", "kind", "exception"),
    [
        ("LOADING Redis is loading the dataset in memory", failures.RECONNECT, BrokerUnavailable),
        ("READONLY You can't write against a read only replica.", failures.RECONNECT, BrokerUnavailable),
        ("MASTERDOWN Link with MASTER is down", failures.RECONNECT, BrokerUnavailable),
        ("NOREPLICAS Not enough good replicas to write.", failures.RETRY, BrokerUnavailable),
        ("BUSY Redis is busy running a script.", failures.RETRY, BrokerUnavailable),
        ("CLUSTERDOWN The cluster is down", failures.RETRY, BrokerUnavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", failures.RETRY, BrokerUnavailable),
        ("ASK 3999 127.0.0.1:6381", failures.RETRY, BrokerUnavailable),
        ("OOM command not allowed when used memory > 'maxmemory'.", failures.FULL, BrokerFull),
        ("ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed", failures.FULL, BrokerFull),
        ("MISCONF Redis is configured to save RDB snapshots, but it can't", failures.FULL, BrokerFull),
        ("NOAUTH Authentication required.", failures.CONFIG, BrokerUnavailable),
        ("WRONGPASS invalid username-password pair or user is disabled.", failures.CONFIG, BrokerUnavailable),
        ("NOPERM this user has no permissions to run the 'evalsha' command", failures.CONFIG, BrokerUnavailable),
        ("ERR invalid password", failures.CONFIG, BrokerUnavailable),
        ("ERR max number of clients reached", failures.RECONNECT, BrokerUnavailable),
        ("NOSCRIPT No matching script.", failures.RETRY, BrokerUnavailable),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", failures.RETRY, BrokerUnavailable),
        ("ERR unknown command 'EVALSHA'", failures.REFUSED, TransportError),
        ("SOMETHING new", failures.REFUSED, TransportError),
    ],
)
def test_each_error_reply_has_its_meaning(text: str, kind: str, exception: type[Exception]) -> None:
    assert failures.kind_of(text) == kind
    with _answering(error(text)) as redis:
        transport = RedisTransport(redis.url, options={})
        with pytest.raises(exception, match=f"redis at 127.0.0.1:{redis.port}") as caught:
            publish(transport, "one")
        assert type(caught.value) is exception
        assert text in str(caught.value)
        transport.close()


def test_a_key_of_ours_that_holds_something_else_is_named_and_kept(server: RedisServer) -> None:
    server.expect("SET", "{engine}:messages", "mine")
    with pytest.raises(ConfigError, match=r"the key \{engine\}:messages holds a string that is not the engine's"):
        RedisTransport(server.url, options={}).check()
    transport = RedisTransport(server.url, options={})
    with pytest.raises(BrokerUnavailable, match="has something else in one of the engine's keys"):
        publish(transport, "one")
    assert server.expect("GET", "{engine}:messages") == b"mine"
    transport.close()


def test_foreign_entries_become_dead_letters_and_stop_nobody(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={})
    consumer = consumer_of(transport)
    publish(transport, "before")
    garbage = [b"garbage", b"", b"\xff\xfe\n", b"12", b"12 ", b"12\xffshort", b"12\xff" + b"x" * 17]
    server.expect("RPUSH", "{engine}:ready:0:default", *garbage, b"99 no such message")
    publish(transport, "after")
    assert sorted(ack_all(consumer, 2)) == ["after", "before"]
    letters = [transport.dead_letter(letter.id) for letter in transport.dead()]
    assert sorted(letter.body for letter in letters if letter is not None) == sorted(garbage)
    assert all("did not put this into {engine}:ready:0:default" in letter.reason for letter in letters if letter)
    assert transport.counts([QUEUE])[QUEUE].ready == 0
    consumer.close()
    transport.close()


def test_garbage_in_other_keys_stops_nobody(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={})
    server.expect("HSET", "{engine}:messages", "x", "garbage", "y", b"\xff\n\xff")
    server.expect("HSET", "{engine}:workers", "nobody", "garbage", "other", b"\xff{")
    server.expect("HSET", "{engine}:beats", "nobody", "1", "other", "2", "third", "3")
    server.expect("ZADD", "{engine}:delayed:0:default", 1, "garbage", 2, "7 y")
    server.expect("ZADD", "{engine}:due", 1, "0:default")
    server.expect("HSET", "{engine}:letters", "z", "garbage")
    server.expect("ZADD", "{engine}:dead", 1, "z")
    server.expect("HSET", "{engine}:tallies", "one", "garbage")
    consumer = consumer_of(transport)
    consumer.renew([])
    assert list(consumer.takeover(3, 20)) == []
    publish(transport, "one")
    assert ack_all(consumer, 1) == ["one"]
    assert list(consumer.fetch(10, 0)) == []
    assert transport.find("x") is None
    assert [letter.body for letter in transport.dead()] == [b"garbage"]
    transport.counts()
    transport.scheduled()
    transport.revoke(["x", "y"], time.time() + 60)
    assert server.expect("HGET", "{engine}:messages", "x") == b"garbage"
    consumer.close()
    transport.close()


def test_a_foreign_result_is_refused_and_kept(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={})
    results = RedisResults(server.url, expires=60, options={})
    assert transport.share_results(results)
    consumer = consumer_of(transport)
    publish(transport, "one", "two", "three")
    one, two, three = take(consumer, 3)
    server.expect("LPUSH", "{engine}:result:two", "mine")
    server.expect("SET", "{engine}:result:three", "mine")
    for foreign in (two, three):
        with pytest.raises(TransportError, match=f"the key {{engine}}:result:{foreign.id} holds something else"):
            consumer.settle([Ack(one.claim, record("one")), Ack(foreign.claim, record(foreign.id))])
    assert list(results.get(["three"])) == []
    assert consumer.settle([Ack(one.claim, record("one")), Ack(two.claim), Ack(three.claim)]) == []
    assert server.expect("GET", "{engine}:result:three") == b"mine"
    consumer.close()
    transport.close()
    results.close()


def test_a_unix_socket_and_another_database(server: RedisServer) -> None:
    for url in (f"redis+unix://{server.socket}?db=3", f"redis+socket://{server.socket}?db=3"):
        transport = RedisTransport(url, options={"namespace": "shop"})
        consumer = consumer_of(transport)
        publish(transport, "one")
        assert ack_all(consumer, 1) == ["one"]
        assert RedisTransport(server.url, options={}).counts() == {}
        consumer.close()
        transport.close()


def test_namespaces_and_databases_do_not_mix(server: RedisServer) -> None:
    makes = [("0", "engine"), ("1", "engine"), ("0", "shop")]
    transports = [RedisTransport(server.url[:-1] + db, options={"namespace": name}) for db, name in makes]
    consumers = [consumer_of(transport) for transport in transports]
    for number, transport in enumerate(transports):
        publish(transport, f"m{number}")
        transport.broadcast(b"%d" % number)
    for number, consumer in enumerate(consumers):
        assert ack_all(consumer, 1) == [f"m{number}"]
        assert list(consumer.commands()) == [b"%d" % number]
        consumer.close()
    assert not transports[0].share_results(RedisResults(server.url, expires=60, options={"namespace": "shop"}))
    for transport in transports:
        transport.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    pem, key = folder / "server.pem", folder / "server.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=redis"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    return pem, key


def test_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    pem, key = map(str, certificate)
    arguments = ["--tls-cert-file", pem, "--tls-key-file", key, "--tls-ca-cert-file", pem]
    with redis_server(tmp_path, *arguments) as server:
        server.expect("CONFIG", "SET", "tls-port", server.port + 10000)
        url = f"rediss://127.0.0.1:{server.port + 10000}/0"
        with pytest.raises(BrokerUnavailable, match=r"certificate required|alert|EOF|closed|reset"):
            RedisTransport(url, options={"ca_file": pem}).counts()
        with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
            RedisTransport(url, options={"cert_file": pem, "key_file": key}).counts()
        transport = RedisTransport(url, options={"ca_file": pem, "cert_file": pem, "key_file": key})
        transport.check()
        consumer = consumer_of(transport)
        consumer.fetch(1, 0.05)
        publish(transport, "one", body=b"x" * 10**6)
        assert ack_all(consumer, 1) == ["one"]
        consumer.close()
        transport.close()
        with pytest.raises(BrokerUnavailable):
            RedisTransport(f"redis://127.0.0.1:{server.port + 10000}/0", options={"timeout": 1.0}).counts()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis:/host", "cannot be read"),
        ("redis://:secret@host:port/0", "is no host or host:port"),
        ("redis://:secret@host:99999", "is no host or host:port"),
        ("redis://host/zero", "the database is a number"),
        ("redis://host/-1", "the database is a number"),
        ("redis://a,b/0", "redis\\+sentinel:// or redis\\+cluster://"),
        ("redis+unix://", "redis\\+unix:///path"),
        ("redis+sentinel://host", "name the group"),
        ("redis+cluster://host/1", "database 0 only"),
        ("redis://host?ssl=1", "'ssl' is no part of it"),
        ("redis+tls://host", "cannot be read"),
    ],
)
def test_urls_that_cannot_be_read(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        RedisTransport(url, options={})
    assert "secret" not in str(caught.value)


def test_what_urls_say() -> None:
    one = parse("rediss://us%40er:p%3A@[::1]:7000/3", {"namespace": "shop", "timeout": 2.0})
    assert (one.hosts, one.username, one.password, one.db, one.tls) == ((("::1", 7000),), "us@er", "p:", 3, True)
    assert (one.prefix, one.timeout) == ("{shop}:", 2.0)
    two = parse("redis+sentinel://:pw@a:1,b/group/2", {})
    assert (two.kind, two.hosts, two.group, two.db) == ("sentinel", (("a", 1), ("b", 26379)), "group", 2)
    assert parse("redis://:p@ss@host", {}).password == "p@ss"
    assert parse("redis://", {}).hosts == (("localhost", 6379),)
    for options, words in (
        ({"namespace": "{x}"}, "namespace"),
        ({"timeout": 0.0}, "timeout"),
        ({"key_file": "k"}, "cert"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse("redis://host", options)


def test_a_fork_gets_connections_of_its_own(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={})
    transport.counts()
    pid = os.fork()
    if not pid:
        try:
            publish(transport, "child")
        finally:
            os._exit(0)
    for _ in range(50):
        assert set(transport.counts()) <= {QUEUE}
    os.waitpid(pid, 0)
    assert transport.counts()[QUEUE].ready == 1
    transport.close()


def test_ids_of_every_kind(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={})
    ids = ["a b", "line\nline", "x" * 255, "y" * 40, "z" * 41, "ünï", "0", "-1", "' \" \\ %", "\x00", "a:b{c}"]
    consumer = consumer_of(transport)
    publish(transport, *ids)
    publish(transport, *ids)
    taken = take(consumer, len(ids))
    assert [delivery.id for delivery in taken] == ids
    assert all(len(delivery.claim) <= 64 for delivery in taken)
    places = {found.place for id in ids if (found := transport.find(id)) is not None}
    assert places == {"claimed"}
    assert [held.id for held in sorted(consumer.reconcile([one.claim for one in taken]).held, key=_by(ids))] == ids
    assert consumer.settle([Ack(delivery.claim) for delivery in taken]) == []
    assert server.expect("EXISTS", "{engine}:messages") == 0
    consumer.close()
    transport.close()


def _by(ids: list[str]):  # type: ignore[no-untyped-def]  # a key for sorted()
    return lambda delivery: ids.index(delivery.id)


def test_a_queue_name_of_two_lines_is_refused(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={})
    with pytest.raises(TransportError, match="one line of text"):
        publish(transport, "one", queue="a\nb")
    with pytest.raises(TransportError, match="one line of text"):
        transport.consume(["a\nb"], Worker("w", "h", "b", "/l"))
    transport.close()
