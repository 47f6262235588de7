"""Tries the system calls that `engine start` needs, and names those that are missing here."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator

OLDEST = (5, 4)
"""Linux version."""
FDS_PER_CHILD = 8
FDS_OF_AN_ENGINE = 200
_PR_SET_CHILD_SUBREAPER = 36
_SO_PEEK_OFF = 42


def missing() -> Iterator[str]:
    """Yields a sentence for each thing that is needed and not there."""
    if sys.platform != "linux":
        yield f"engine start needs Linux, and this is {sys.platform}: run it in a container"
        return
    version = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())
    if version < OLDEST:
        yield f"Linux {platform.release()} is older than {OLDEST[0]}.{OLDEST[1]}"
    for name, attempt in CALLS.items():
        try:
            attempt()
        except (OSError, AttributeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not in this Python"
            yield f"{name} does not work here: {reason} (a container's seccomp profile may forbid it)"


def too_few_files(concurrency: int) -> str | None:
    """Returns a warning when the limit of open files is low for this many children."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = FDS_OF_AN_ENGINE + FDS_PER_CHILD * concurrency
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        return None
    return (
        f"at most {limit} files may be open, {concurrency} children want {wanted}: raise it with `ulimit -n {wanted}`"
    )


def _pidfd() -> None:
    fd = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(fd, 0)
    finally:
        os.close(fd)


def _memfd() -> None:
    os.close(os.memfd_create("engine-check", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))


def _eventfd() -> None:
    os.close(os.eventfd(0))


def _subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _peek_offset() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
        theirs.send(b"x")
        ours.recv(1, socket.MSG_PEEK)


def _boottime() -> None:
    time.clock_gettime_ns(time.CLOCK_BOOTTIME)


CALLS: dict[str, Callable[[], None]] = {
    "pidfd_open": _pidfd,
    "memfd_create": _memfd,
    "eventfd": _eventfd,
    "prctl(PR_SET_CHILD_SUBREAPER)": _subreaper,
    "SO_PEEK_OFF": _peek_offset,
    "CLOCK_BOOTTIME": _boottime,
}
