"""The broker goes away, hangs, is full, or the link loses bytes: nothing is lost, nothing runs twice, nobody ends."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest
from faults_rig import Rig

from engine.errors import BrokerFull
from engine.testing.faults.brokers import Redis
from engine.testing.harness import wait_for


def _lines_of_each(log: str) -> Counter[str]:
    """Returns how many lines each process wrote: ``role[pid]``."""
    return Counter(line.split()[3] for line in log.splitlines() if len(line.split()) > 3)


@pytest.mark.parametrize("down", [0.2, 3.0])
def test_an_outage_ends_no_process_and_what_ran_is_told_when_it_is_over(redis: Rig, down: float) -> None:
    engine = redis.start(concurrency=2)
    before = redis.pids()
    running = redis.send("sleep", down / 2)
    wait_for(lambda: redis.starts(running.id), "it to run")
    mark = len(engine.log)
    redis.broker.kill()
    time.sleep(down)
    redis.broker.start()
    assert running.get(timeout=20) == running.id
    following = redis.send("sleep")
    assert following.get(timeout=20) == following.id
    assert redis.pids() == before
    assert redis.ledger().count() == {running.id: 1, following.id: 1}
    redis.wait_empty()
    redis.wait_log("back after")
    assert max(_lines_of_each(engine.log[mark:]).values()) < 5, engine.log[mark:]


def test_a_client_that_waited_before_an_outage_waits_again_after_it(redis: Rig) -> None:
    redis.start(concurrency=2)
    assert redis.send("sleep").get(timeout=20)
    redis.broker.kill()
    redis.broker.start()
    result = redis.send("sleep", 0.1)
    assert result.get(timeout=20) == result.id


def test_limits_hold_while_the_broker_is_away(redis: Rig) -> None:
    redis.start(concurrency=2)
    result = redis.send("last", 60, time_limit=1.5)
    start = wait_for(lambda: redis.ledger().by_id.get(result.id), "it to run")[0]
    redis.broker.kill()
    wait_for(lambda: not os.path.exists(f"/proc/{start.pid}"), "the child to be killed", 10)
    redis.broker.start()
    assert "TimeLimitExceeded" in repr(result.get(timeout=20, propagate=False))
    assert redis.starts(result.id) == 1


def test_children_killed_while_the_broker_is_away_have_their_tasks_run_again_afterwards(redis: Rig) -> None:
    redis.start(concurrency=2)
    result = redis.send("sleep", 0.5)
    start = wait_for(lambda: redis.ledger().by_id.get(result.id), "it to run")[0]
    redis.broker.kill()
    os.kill(start.pid, signal.SIGKILL)
    redis.wait_log("task lost", result.id)
    redis.broker.start()
    assert result.get(timeout=20) == result.id
    assert redis.starts(result.id) == 2


def test_a_dispatcher_killed_while_the_broker_is_away_loses_nothing(redis: Rig) -> None:
    engine = redis.start(concurrency=2)
    result = redis.send("sleep", 0.3)
    wait_for(lambda: redis.starts(result.id), "it to run")
    redis.broker.kill()
    wait_for(lambda: redis.ledger().ends[result.id], "it to end")
    for _ in range(2):
        pid = engine.pid_of("dispatcher")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: engine.pid_of("dispatcher") not in (pid, None, 0), "the next dispatcher")
    redis.broker.start()
    assert result.get(timeout=30) == result.id
    assert redis.starts(result.id) == 1
    redis.wait_empty()


def test_an_engine_stops_while_the_broker_is_away_and_nothing_is_lost(redis: Rig) -> None:
    engine = redis.start(concurrency=2)
    result = redis.send("sleep", 0.3)
    wait_for(lambda: redis.starts(result.id), "it to run")
    redis.broker.kill()
    assert engine.stop(60) == 1
    redis.broker.start()
    redis.start()
    assert result.get(timeout=20) == result.id
    assert redis.starts(result.id) == 2
    redis.wait_empty()


def test_a_half_open_link_is_noticed_in_ten_seconds_and_forgotten_when_it_heals(proxied: Rig) -> None:
    proxied.start(concurrency=2)
    first = proxied.send("sleep")
    first.get(timeout=20)
    before = proxied.pids()
    proxied.proxy.hanging = True
    proxied.wait_log("trying again until it is back", timeout=12)
    result = proxied.send("sleep")
    proxied.proxy.hanging = False
    assert result.get(timeout=20) == result.id
    assert proxied.pids() == before


def test_a_server_that_hangs_and_goes_on_loses_nothing(redis: Rig) -> None:
    redis.start(concurrency=4)
    results = redis.send_many("sleep", 300, 0.01)
    wait_for(lambda: len(redis.ledger().ends) > 50, "some to end")
    before = redis.pids()
    redis.server.pause()
    time.sleep(6.5)
    redis.server.resume()
    for result in results:
        assert result.get(timeout=30) == result.id
    assert set(redis.ledger().count().values()) == {1}
    assert redis.pids() == before
    redis.wait_empty()


@pytest.mark.parametrize(("switch", "part"), [("lose", 0.03), ("tear", 0.02)])
def test_lost_replies_and_torn_packets_leave_nothing_stuck_and_nothing_twice(
    proxied: Rig, switch: str, part: float
) -> None:
    proxied.start(concurrency=4)
    proxy = proxied.proxy
    before = proxied.pids()
    setattr(proxy, switch, part)
    results = []
    deadline = time.monotonic() + 60
    while proxy.lost + proxy.torn < 15:
        assert time.monotonic() < deadline, "nothing gets lost"
        results += proxied.send_many("sleep", 20, 0.002)
        enough = len(results) - 40
        wait_for(lambda enough=enough: len(proxied.ledger().ends) >= enough, "the queue to move")
    for result in results:
        assert result.get(timeout=20) == result.id
    proxied.wait_empty()
    assert set(proxied.ledger().count().values()) == {1}
    assert len(proxied.ledger().by_id) == len(results)
    assert proxied.pids() == before


def test_a_full_redis_drains(redis: Rig) -> None:
    redis.start(concurrency=4)
    server = redis.broker
    assert isinstance(server, Redis)
    results = redis.send_many("sleep", 400, 0.01)
    wait_for(lambda: len(redis.ledger().ends) > 20, "some to end")
    before = redis.pids()
    server.ask(b"CONFIG SET maxmemory 1\r\n")
    with pytest.raises(BrokerFull):
        redis.send("sleep")
    for result in results:
        assert result.get(timeout=30) == result.id
    redis.wait_empty()
    server.ask(b"CONFIG SET maxmemory 0\r\n")
    later = redis.send("sleep")
    assert later.get(timeout=20) == later.id
    assert set(redis.ledger().count().values()) == {1}
    assert redis.pids() == before


def test_a_whole_engine_that_was_paused_for_longer_than_it_counts_as_alive_ends_nothing_twice(rig: Rig) -> None:
    """SIGSTOP of every process, as of a virtual machine that is frozen. Its claims might be another worker's when it
    goes on; here nobody took them, so its runs count."""
    engine = rig.start(concurrency=2)
    results = rig.send_many("sleep", 100, 0.02)
    wait_for(lambda: len(rig.ledger().ends) > 10, "some to end")
    processes = engine.processes()
    for process in processes:
        process.suspend()
    time.sleep(2.5)
    for process in processes:
        process.resume()
    for result in results:
        assert result.get(timeout=20) == result.id
    assert set(rig.ledger().count().values()) == {1}
    rig.wait_empty()
