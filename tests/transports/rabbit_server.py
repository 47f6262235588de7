"""The RabbitMQ node that tests share: each has a virtual host of its own. Those that break nodes have another one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from engine.errors import ConfigError
from engine.testing.faults.rabbitmq import Rabbit
from servers import missing

R = TypeVar("R", bound=Rabbit)


def made(make: Callable[[], R]) -> R:
    """Returns a node, not started; without RabbitMQ the test is skipped, or fails under CI=true."""
    try:
        return make()
    except ConfigError as error:
        missing(str(error))


@cache
def shared() -> Rabbit:
    """Returns the node for all tests that do not break it; it is ended with this process."""
    folder = Path(tempfile.mkdtemp(prefix="rabbit-"))
    server = made(lambda: Rabbit(folder))

    def end() -> None:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    server.start()
    return server
