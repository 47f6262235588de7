"""Runs in the supervisor and the template: what /proc tells of processes, and how an end is put into words."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("engine.supervisor")
PASSES = 100
"""Most looks for what is left in a session."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """One line of the process table."""

    pid: int
    parent: int
    session: int
    state: str


def read(pid: int) -> Process | None:
    """Returns one process, None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[3]), fields[0].decode())


def table() -> list[Process]:
    """Returns all processes. One that ends meanwhile may be missing."""
    rows = (read(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [row for row in rows if row is not None]


def descendants(pids: Iterable[int]) -> set[int]:
    """Returns all processes that descend from these by parent links. These must be stopped, or they could fork
    meanwhile. The kernel lists the children of each thread: no need to read the whole process table."""
    found: set[int] = set()
    ahead = list(pids)
    while ahead:
        children = _children(ahead.pop())
        ahead += children - found
        found |= children
    return found


def _children(pid: int) -> set[int]:
    children: set[int] = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children.update(map(int, file.read().split()))
    except (FileNotFoundError, ProcessLookupError):
        return children  # it is gone: so are its parent links
    except OSError as error:
        log.error("cannot list the processes that process %d has started: %s", pid, error)
    return children


def kill(pids: Iterable[int]) -> None:
    """Kills (SIGKILL) processes that may be gone already. One that became another user's (sudo) cannot be killed: that
    is logged."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        except PermissionError:
            log.error("process %d of a task belongs to another user now and cannot be killed", pid)


def kill_sessions(leaders: Collection[int], *, spare: Collection[int] = ()) -> set[int]:
    """Kills all that is in the sessions of these leaders, but not ``spare``; returns the pids.

    What is forked while the table is read is found by the next pass: one that has a SIGKILL pending forks no more, so
    the passes come to an end.
    """
    killed: set[int] = set()
    for _ in range(PASSES if leaders else 0):
        try:
            members = {row.pid for row in table() if row.session in leaders and row.state != "Z"}
        except OSError as error:  # no file can be opened: limits and deaths are looked after all the same
            log.error("cannot look for what children left behind: %s", error)
            break
        fresh = members - killed - set(spare)
        if not fresh:
            break
        kill(fresh)
        killed |= fresh
    return killed


def resident(pid: int) -> int:
    """Returns the resident size in bytes, 0 if the process is gone or nobody can tell."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


class OomCounter:
    """Tells whether the kernel's out-of-memory killer struck in our control group since the last look."""

    def __init__(self) -> None:
        self._path = self._find()
        self._count = self._read()

    def moved(self) -> bool:
        """Has the group's count of OOM kills grown since the last call that said yes?"""
        count = self._read()
        grew = count > self._count
        self._count = count
        return grew

    def _read(self) -> int:
        if self._path is None:
            return 0
        try:
            lines = self._path.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    @staticmethod
    def _find() -> Path | None:
        try:
            lines = Path("/proc/self/cgroup").read_text().splitlines()
        except OSError:
            return None
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                return Path("/sys/fs/cgroup" + path) / "memory.events"
        return None


@dataclass(frozen=True)
class Exit:
    """How a process ended."""

    status: int | None
    """Its exit status; None: it was ended by a signal."""
    signal: int | None
    words: str
    """As `cause` puts it."""

    @classmethod
    def of(cls, result: os.waitid_result, *, oom: bool = False) -> Exit:
        """Returns the end that `os.waitid` told of."""
        exited = result.si_code == os.CLD_EXITED
        code = result.si_status
        return cls(code if exited else None, None if exited else code, cause(result, oom=oom))


def cause(status: os.waitid_result, *, oom: bool = False) -> str:
    """Puts the end of a process into words: "SIGSEGV (core dumped)", "exit status 3"."""
    if status.si_code == os.CLD_EXITED:
        return f"exit status {status.si_status}"
    try:
        name = signal.Signals(status.si_status).name
    except ValueError:
        name = f"signal {status.si_status}"
    if status.si_code == os.CLD_DUMPED:
        return f"{name} (core dumped)"
    return f"{name} (out of memory)" if oom and status.si_status == signal.SIGKILL else name
