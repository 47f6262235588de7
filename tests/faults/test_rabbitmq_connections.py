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
