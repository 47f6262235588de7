"""Runs in the first process: makes ready what an engine needs, then becomes its supervisor."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from setproctitle import setproctitle

from engine import __version__
from engine.app.config.folders import lock_path, runtime_dir, socket_path
from engine.app.config.loader import Config
from engine.contract.liveness import lock_is_free
from engine.contract.transport import Worker
from engine.errors import AlreadyRunning, ConfigError
from engine.runtime import log as log_setup
from engine.runtime.supervisor.commands import ControlSocket
from engine.runtime.supervisor.fleet import Fleet
from engine.runtime.supervisor.supervisor import Supervisor

log = logging.getLogger("engine.supervisor")
SPARE_DESCRIPTORS = 128
"""Open files that the engine needs beside two socket pairs for each child."""
STALE_LOCK_AGE = 7 * 86400.0
"""Seconds for which the lock file of a dead incarnation is kept: it proves to other workers that it is dead."""


def start(config: Config) -> int:
    """Runs an engine in the foreground until it has shut down; returns the exit status (0, 1, 70, 75 or 78).

    Raises ConfigError and AlreadyRunning before anything is started.
    """
    settings = config.settings
    if not settings.broker.url:
        raise ConfigError('no broker: set [broker] url, for example url = "sqlite:///engine.db"')
    _append_to_files()
    writer = log_setup.LogWriter()
    log_setup.configure("supervisor", settings.worker.log_level, as_json=settings.worker.json_logs, writer=writer)
    if config.path is not None:
        os.environ["ENGINE_CONFIG"] = str(config.path.absolute())
    setproctitle(f"engine: supervisor ({settings.engine.name})")
    with _name_lock(config), _incarnation(config) as worker:
        log.info("engine %s %s starts: importing %s", settings.engine.name, __version__, settings.engine.app)
        commands = ControlSocket(socket_path(settings))
        commands.listen()
        try:
            concurrency = settings.worker.concurrency or len(os.sched_getaffinity(0))
            _allow_descriptors(concurrency)
            return Supervisor(Fleet(config, worker, concurrency), commands, writer).run()
        finally:
            commands.close()


def _allow_descriptors(concurrency: int) -> None:
    """Raises the limit of open files as far as it may be raised. Raises ConfigError when that is not far enough."""
    needed = 4 * concurrency + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < needed:
        raise ConfigError(
            f"[worker] concurrency: {concurrency} children need {needed} open files, and this process may have {hard}: "
            "raise the limit (ulimit -Hn, LimitNOFILE=) or use fewer children"
        )


def _append_to_files() -> None:
    """``engine start > file``: the log and the tasks' own output go there through different descriptors, and would
    overwrite each other."""
    for fd in (1, 2):
        with suppress(OSError):  # closed: then nothing is written there
            if stat.S_ISREG(os.fstat(fd).st_mode):
                fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)


@contextmanager
def _name_lock(config: Config) -> Iterator[None]:
    """Holds the engine's name on this host. The file stays: removing it would let two hold locks on two files."""
    path = lock_path(config.settings)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"an engine named {config.settings.engine.name!r} is running (pid {_pid_in(fd)}): stop it with "
                "`engine stop`, or give this one another name with [engine] name"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def _pid_in(fd: int) -> str:
    return os.pread(fd, 20, 0).decode(errors="replace") or "unknown"


@contextmanager
def _incarnation(config: Config) -> Iterator[Worker]:
    """Makes the worker's identity, and holds its lock: when the kernel lets go of that, this incarnation is dead."""
    folder = runtime_dir(config.settings) / "workers"
    folder.mkdir(mode=0o700, exist_ok=True)
    _sweep(folder)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    name = f"{config.settings.engine.name}-{os.getpid()}-{uuid.uuid4().hex[:16]}"
    path = folder / f"{name}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield Worker(name, socket.gethostname(), boot_id, str(path), float(config.settings.worker.dead_after))
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _sweep(folder: Path) -> None:
    """Removes lock files so old that every other worker has long seen them free."""
    for path in folder.glob("*.lock"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_LOCK_AGE and lock_is_free(str(path)):
                path.unlink()
