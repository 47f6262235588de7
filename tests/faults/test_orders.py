"""What is ordered while a dispatcher is dead reaches the next one: the tasks that it is about run on meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from faults_rig import Rig

from engine import TaskRevokedError
from engine.testing.harness import wait_for

AWAY = ",".join(["fork.service:fail=EAGAIN:3"] * 4)
"""The first two forks are the template and the dispatcher; the next four fail: half a second, and more."""


@pytest.mark.parametrize("transport", ["sqlite", "redis", "rabbitmq"])
def test_a_task_that_is_terminated_while_the_dispatcher_is_dead_ends_revoked(
    rigs: Callable[..., Rig], transport: str
) -> None:
    rig = rigs(transport)
    engine = rig.start(concurrency=2, points=AWAY)
    spared = rig.send("hold", "gate")
    result = rig.send("hold", "never")
    wait_for(lambda: len(rig.ledger().starts) == 2, "both to run")
    os.kill(engine.pid_of("dispatcher"), signal.SIGKILL)
    rig.wait_log("cannot start the dispatcher")
    rig.client.revoke([result.id], terminate=True)
    assert engine.log.count("dispatcher started") == 1, "it was ordered too late"
    with pytest.raises(TaskRevokedError):
        result.get(timeout=20)
    (rig.folder / "gate").touch()
    assert spared.get(timeout=20) == spared.id
    assert rig.ledger().count() == {spared.id: 1, result.id: 1}
    rig.wait_empty()
