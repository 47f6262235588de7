"""A connection that is lost again and again says nothing of the task that runs meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from faults_rig import Rig

from engine.testing.faults.proxy import Proxy
from engine.testing.harness import wait_for

MORE_THAN_ALLOWED = 22


def test_a_task_that_runs_through_twenty_lost_connections_ends_once(rigs: Callable[..., Rig]) -> None:
    """RabbitMQ counts each as a delivery, and gives the message back: it is none in which its worker was lost."""
    rig = rigs("rabbitmq", through=Proxy)
    engine = rig.start(concurrency=2)
    result = rig.send("hold", "gate")
    wait_for(lambda: rig.starts(result.id), "it to run")
    for count in range(MORE_THAN_ALLOWED):
        came = engine.log.count("task came again while it runs here")
        assert came == count
        rig.proxy.cut()
        wait_for(lambda count=count: engine.log.count("task came again while it runs here") > count, "it to come again")
    assert result.state == "PENDING"
    (rig.folder / "gate").touch()
    assert result.get(timeout=20) == result.id
    assert rig.starts(result.id) == 1
    rig.wait_empty()


def test_ten_tasks_that_run_when_the_connection_is_cut_start_once(rigs: Callable[..., Rig]) -> None:
    rig = rigs("rabbitmq", through=Proxy)
    rig.start(concurrency=10)
    results = [rig.send("hold", "gate") for _ in range(10)]
    wait_for(lambda: len(rig.ledger().starts) == 10, "all to run")
    rig.proxy.cut()
    rig.wait_log("claims compared with the broker", "10 of them run on")
    (rig.folder / "gate").touch()
    assert {result.get(timeout=20) for result in results} == {result.id for result in results}
    assert set(rig.ledger().count().values()) == {1}
    rig.wait_empty()


def test_neither_a_long_task_nor_a_distant_one_is_handed_out_twice(rigs: Callable[..., Rig]) -> None:
    """A worker counts as dead after a second here: the one runs three times as long, the other waits that long."""
    rig = rigs("rabbitmq")
    rig.start(concurrency=2)
    results = [rig.send("sleep", 3.2), rig.send("sleep", countdown=3.2)]
    for result in results:
        assert result.get(timeout=20) == result.id
    assert rig.ledger().count() == {result.id: 1 for result in results}
    rig.wait_empty()
