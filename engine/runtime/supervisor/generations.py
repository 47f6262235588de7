"""Runs in the supervisor: template generations. The first is made at boot, a further one by each reload.

LOADING (the template imports the app) -> TRIAL (its first children start) -> ACTIVE (it gets the tasks) -> RETIRED (its
idle children have left, the busy ones finish). Each has a hand-off pair of its own, so a packet can only reach a child
that knows the code it is meant for.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum

from engine.app.settings import Settings
from engine.app.wire import TaskInfo
from engine.runtime.supervisor.services import Service

HANDOFF_BUFFER = 1 << 20


class Phase(Enum):
    """Where a generation is in its life."""

    LOADING = "loading"
    TRIAL = "trial"
    ACTIVE = "active"
    RETIRED = "retired"


class Generation:
    """One import of the app: its template, and the hand-off pair of its children."""

    def __init__(self, number: int, settings: Settings, launch: Callable[[Generation, socket.socket], int]) -> None:
        self.number = number
        self.settings = settings
        self.phase = Phase.LOADING
        self.tasks: list[TaskInfo] = []
        self.outlet, self.inlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        """The dispatcher's end, and the children's."""
        for end in (self.outlet, self.inlet):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HANDOFF_BUFFER)
        self.template = Service("template", lambda control: launch(self, control))

    def task_name(self, index: int) -> str:
        """Returns the name of a task by its index on the board."""
        return self.tasks[index].name if 0 <= index < len(self.tasks) else "a task"

    def shut(self) -> None:
        """Ends the hand-off for good: children that wait see the end of the stream."""
        try:
            self.outlet.shutdown(socket.SHUT_WR)
        except OSError:
            return  # shut before

    def close(self) -> None:
        """Lets go of the pair. No child may be left."""
        self.template.dismiss()
        self.outlet.close()
        self.inlet.close()
