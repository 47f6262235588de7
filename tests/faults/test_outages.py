"""The broker goes away, hangs, is full, or the link loses bytes: nothing is lost, nothing runs twice, nobody ends."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest
from faults_rig import Rig

from engine.errors import BrokerFull
from engine.testing.faults.brokers import Redis
from engine.testing.harness import wait_for

DEAD_AFTER = 1.0
"""Seconds, of the engines here."""


def _lines_of_each(log: str) -> Counter[str]:
    """Returns how many lines each process wrote: ``role[pid]``."""
    return Counter(line.split()[3] for line in log.splitlines() if len(line.split()) > 3)


@pytest.mark.parametrize("down", [0.2, 3.0])
def test_an_outage_ends_no_process_and_what_ran_is_told_when_it_is_over(served: Rig, down: float) -> None:
    engine = served.start(concurrency=2)
    before = served.pids()
    running = served.send("sleep", down / 2)
    wait_for(lambda: served.starts(running.id), "it to run")
    mark = len(engine.log)
    served.broker.kill()
    time.sleep(down)
    served.broker.start()
    assert running.get(timeout=20) == running.id
    following = served.send("sleep")
    assert following.get(timeout=20) == following.id
    assert served.pids() == before
    assert served.ledger().count() == {running.id: 1, following.id: 1}
    served.wait_empty()
    served.wait_log("back after")
    assert max(_lines_of_each(engine.log[mark:]).values()) < 5, engine.log[mark:]


def test_a_client_that_waited_before_an_outage_waits_again_after_it(served: Rig) -> None:
    served.start(concurrency=2)
    assert served.send("sleep").get(timeout=20)
    served.broker.kill()
    served.broker.start()
    result = served.send("sleep", 0.1)
    assert result.get(timeout=20) == result.id


def test_limits_hold_while_the_broker_is_away(served: Rig) -> None:
    served.start(concurrency=2)
    result = served.send("last", 60, time_limit=1.5)
    start = wait_for(lambda: served.ledger().by_id.get(result.id), "it to run")[0]
    served.broker.kill()
    wait_for(lambda: not os.path.exists(f"/proc/{start.pid}"), "the child to be killed", 10)
    served.broker.start()
    assert "TimeLimitExceeded" in repr(result.get(timeout=20, propagate=False))
    assert served.starts(result.id) == 1


def test_children_killed_while_the_broker_is_away_have_their_tasks_run_again_afterwards(served: Rig) -> None:
    served.start(concurrency=2)
    result = served.send("sleep", 0.5)
    start = wait_for(lambda: served.ledger().by_id.get(result.id), "it to run")[0]
    served.broker.kill()
    os.kill(start.pid, signal.SIGKILL)
    served.wait_log("task lost", result.id)
    served.broker.start()
    assert result.get(timeout=20) == result.id
    assert served.starts(result.id) == 2


def test_a_dispatcher_killed_while_the_broker_is_away_loses_nothing(served: Rig) -> None:
    engine = served.start(concurrency=2)
    result = served.send("sleep", 0.3)
    wait_for(lambda: served.starts(result.id), "it to run")
    served.broker.kill()
    wait_for(lambda: served.ledger().ends[result.id], "it to end")
    for _ in range(2):
        pid = engine.pid_of("dispatcher")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: engine.pid_of("dispatcher") not in (pid, None, 0), "the next dispatcher")
    served.broker.start()
    assert result.get(timeout=30) == result.id
    assert served.starts(result.id) == 1
    served.wait_empty()


def test_an_engine_stops_while_the_broker_is_away_and_nothing_is_lost(served: Rig) -> None:
    engine = served.start(concurrency=2)
    result = served.send("sleep", 0.3)
    wait_for(lambda: served.starts(result.id), "it to run")
    served.broker.kill()
    assert engine.stop(60) == 1
    served.broker.start()
    served.start()
    assert result.get(timeout=20) == result.id
    # A result backend of its own has the end; the broker's own was away too, so the task runs again.
    assert served.starts(result.id) == (1 if served.broker.results != served.broker.url else 2)
    served.wait_empty()


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


def test_a_server_that_hangs_and_goes_on_loses_nothing(served: Rig) -> None:
    served.start(concurrency=4)
    results = served.send_many("sleep", 300, 0.01)
    wait_for(lambda: len(served.ledger().ends) > 50, "some to end")
    before = served.pids()
    served.server.pause()
    time.sleep(6.5)
    served.server.resume()
    for result in results:
        assert result.get(timeout=30) == result.id
    assert set(served.ledger().count().values()) == {1}
    assert served.pids() == before
    served.wait_empty()


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


@pytest.mark.parametrize("transport", ["sqlite", "redis"])
def test_what_a_frozen_host_had_runs_on_another_and_what_it_says_afterwards_is_refused(
    rigs: Callable[..., Rig], transport: str
) -> None:
    """Two engines that share nothing but the broker. One is stopped for twice as long as it takes to count as dead."""
    rig = rigs(transport)
    frozen = rig.start(host="frozen", concurrency=4, worker="prefetch = 20")
    results = rig.send_many("sleep", 40, 0.3)
    wait_for(lambda: len(rig.ledger().ends) >= 4, "some to end")
    stopped = frozen.processes()
    for process in stopped:
        process.suspend()
    began = time.monotonic()
    cut = {start.id for start in rig.ledger().open.values()}
    other = rig.start(host="other", concurrency=4)
    taken = re.compile(r"worker \S+ is dead: (\d+) of its messages were released, 0 dead-lettered")
    wait_for(lambda: taken.search(other.log), "its messages to be taken over")
    wait_for(lambda: time.monotonic() - began > 2 * DEAD_AFTER, "twice the time after which it counts as dead")
    for process in stopped:
        process.resume()
    for result in results:
        assert result.get(timeout=30) == result.id
    assert len(taken.findall(other.log)) == 1
    again = {id for id, count in rig.ledger().count().items() if count > 1}
    assert cut <= again
    assert max(rig.ledger().count().values()) == 2
    # What had ended at that moment, and was not settled, is started again too.
    refused = re.compile(r"its end was refused.*")
    wait_for(lambda: len(refused.findall(frozen.log)) == len(again), "all that the frozen one says to be refused")
    assert all(any(id in line for line in refused.findall(frozen.log)) for id in again)
    assert not taken.search(frozen.log)
    assert {result.state for result in results} == {"SUCCESS"}
    rig.wait_empty()
