"""Where an engine keeps its runtime files: the control socket and the lock."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from engine.app.settings import Settings
from engine.errors import ConfigError

SOCKET_PATH_MAX = 107
"""Longest path, in bytes, that Linux takes for a unix socket (``sun_path`` less its final zero)."""


def runtime_dir(settings: Settings) -> Path:
    """Returns the folder of runtime files, made if it is missing: ``[engine] runtime_dir``, else
    ``$XDG_RUNTIME_DIR/engine``, else ``engine-<uid>`` in the folder for temporary files.

    Raises ConfigError when it is not a folder of this user's, or when others could put their own files there.
    """
    if settings.engine.runtime_dir is not None:
        # The operator's: it may be a link, and others may look at it.
        path = Path(settings.engine.runtime_dir).absolute()
        return _private(path, "[engine] runtime_dir", forbidden=0o022, may_be_link=True)
    if xdg := os.environ.get("XDG_RUNTIME_DIR"):
        return _private(Path(xdg) / "engine", "$XDG_RUNTIME_DIR/engine")
    import tempfile  # late: with what it brings it takes 0.3 MB of every process, and most have a folder of their own

    return _private(Path(tempfile.gettempdir()) / f"engine-{os.geteuid()}", "the runtime folder")


def socket_path(settings: Settings) -> Path:
    """Returns the path of the engine's control socket. Raises ConfigError when it is too long for a unix socket."""
    path = runtime_dir(settings) / f"{settings.engine.name}.sock"
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise ConfigError(
            f"[engine] runtime_dir: {path} is longer than the {SOCKET_PATH_MAX} bytes of a unix socket's path: "
            "choose a shorter folder or name"
        )
    return path


def lock_path(settings: Settings) -> Path:
    """Returns the path of the file that the engine of this name holds a lock on while it is up."""
    return runtime_dir(settings) / f"{settings.engine.name}.lock"


def _private(path: Path, what: str, *, forbidden: int = 0o077, may_be_link: bool = False) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat(follow_symlinks=may_be_link)
    except OSError as error:
        raise ConfigError(f"{what}: cannot make {path}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{what}: {path} is not a folder")
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{what}: {path} belongs to another user (uid {status.st_uid}): set [engine] runtime_dir")
    if status.st_mode & forbidden:
        raise ConfigError(f"{what}: others have access to {path}: chmod 700 {path}")
    return path
