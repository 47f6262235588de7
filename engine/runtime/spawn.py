"""Runs in the supervisor, the template, and the dispatcher while that has one thread: the only fork.

A service (dispatcher, template) is forked by the supervisor and is its child. A child that runs tasks is forked by the
template, which shares the imported app with it, and yet must be the supervisor's child: the template forks twice, the
middle process reports the grandchild's pid and exits, and the kernel gives the orphan to the nearest subreaper, the
supervisor. Until then, and until its slot on the board names it as owner, it touches nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from typing import BinaryIO, NoReturn

from setproctitle import setproctitle

from engine.runtime import signals

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ADOPTION_TIMEOUT = 10.0
"""Seconds that a child waits to be the supervisor's, and its slot's owner."""

_UNHEARD = 1
"""Exit status of a middle process that could not report. Other failures of it are errnos, none of which is this one."""

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Sets an attribute of this process (prctl(2)). Raises OSError."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")


def become_subreaper() -> None:
    """Makes this process the parent of all orphans below it."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Has this process killed when ``parent`` dies; ends it now if that has happened already."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def outlive_parent() -> None:
    """Takes `die_with` back: the caller notices its parent's death itself."""
    prctl(PR_SET_PDEATHSIG, 0)


def service(run: Callable[[], int], title: str, keep: Collection[int]) -> int:
    """Forks a service of the supervisor; returns its pid.

    In the new process all descriptors but 0 to 2 and ``keep`` are closed, then ``run`` is called, and the process exits
    with what it returns.
    """
    supervisor = os.getpid()
    with signals.blocked():
        pid = os.fork()
        if pid == 0:
            signals.take_no_part()
    if pid == 0:
        die_with(supervisor)
        _end_with(lambda: _settle_in(title, keep, run))
    return pid


def child(report: Callable[[int], None], run: Callable[[int], int]) -> bool:
    """Forks a child twice, as the template; True if it is on its way, False if nobody can be told of it. Raises OSError
    when either fork fails.

    ``report(pid)`` is called in the middle process, which then exits; ``run(middle)`` is called in the child, with the
    middle's pid, and the child exits with what it returns.
    """
    with signals.blocked():
        middle = os.fork()
        if middle == 0:
            _middle(report, run)
    code = os.waitstatus_to_exitcode(os.waitpid(middle, 0)[1])
    if code > _UNHEARD:
        raise OSError(code, os.strerror(code))
    return code == 0


def apart(call: Callable[[], bytes]) -> bytes:
    """Makes a call in a forked process and returns what that returned. What was imported for it, and its memory, are
    gone then. Raises OSError when there can be no other process, ChildProcessError when the call failed in it."""
    parent = os.getpid()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with open(reader, "rb") as answer, open(writer, "wb") as given:
        pid = os.fork()
        if pid == 0:
            _end_with(lambda: _answer(parent, call, given))
        given.close()
        data = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise ChildProcessError(f"the process that was to answer ended with status {status}")
    return data


def _answer(parent: int, call: Callable[[], bytes], given: BinaryIO) -> int:
    die_with(parent)
    given.write(call())
    given.flush()
    return 0


def _middle(report: Callable[[int], None], run: Callable[[int], int]) -> NoReturn:
    middle = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os._exit(error.errno or errno.EAGAIN)
    if pid == 0:
        signals.take_no_part()
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        _end_with(lambda: run(middle))
    try:
        report(pid)
    except OSError:
        # The supervisor is gone, and nobody will adopt the child: it sees that and exits.
        os._exit(_UNHEARD)
    os._exit(0)


def await_adoption(middle: int, supervisor: int, is_owner: Callable[[], bool]) -> None:
    """Waits, in a new child, until it is the supervisor's and owns its slot; exits when that does not come to pass."""
    deadline = time.monotonic() + ADOPTION_TIMEOUT
    while (parent := os.getppid()) == middle and time.monotonic() < deadline:
        time.sleep(0.0002)
    if parent != supervisor:
        os._exit(1)
    die_with(supervisor)
    os.setsid()
    while not is_owner():
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.0005)


def null_stdin() -> None:
    """Makes descriptor 0 lead to /dev/null."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.dup2(fd, 0)
    os.close(fd)


def reseed() -> None:
    """Gives this process its own random numbers (random has an at-fork hook of its own; numpy has none)."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(int.from_bytes(os.urandom(4), "little"))


def close_all_but(keep: Collection[int]) -> None:
    """Closes every descriptor from 3 on that is not in ``keep``."""
    wanted = set(keep)
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in wanted:
            try:
                os.close(fd)
            except OSError:
                # The listing's own descriptor, closed meanwhile.
                continue


def _settle_in(title: str, keep: Collection[int], run: Callable[[], int]) -> int:
    setproctitle(title)
    null_stdin()
    close_all_but(keep)
    reseed()
    return run()


def _end_with(run: Callable[[], int]) -> NoReturn:
    """Ends this forked process with the status that ``run`` returns: never back into the code of the one it is of."""
    status = 70
    try:
        status = run()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 70
    except BaseException:  # noqa: BLE001 - whatever it was, the stack above belongs to another process
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # nobody reads any more, and there is nobody to tell
        os._exit(status)
