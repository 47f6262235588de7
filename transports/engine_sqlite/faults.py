"""What SQLite's errors mean to whoever has to act on them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from engine.errors import BrokerFull, BrokerUnavailable, ConfigError, TransportError

OLDEST_SQLITE = (3, 35, 0)
"""RETURNING, UPDATE FROM and the JSON functions."""
_NETWORKED = """
afs beegfs ceph cifs coda fuse.ceph fuse.cifs fuse.gcsfuse fuse.glusterfs fuse.mfs fuse.rclone fuse.s3fs fuse.sshfs
glusterfs gpfs lustre ncpfs nfs nfs4 orangefs pvfs2 smb2 smb3 smbfs
"""
NETWORK_FILESYSTEMS = frozenset(_NETWORKED.split())
"""File systems, as /proc/self/mountinfo names them, on which WAL and file locks do not hold between hosts."""

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_REFUSED = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})


def primary_code(error: sqlite3.Error) -> int:
    """Returns SQLite's primary result code, 0 for an error that the sqlite3 module made itself."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Says whether another connection is in the way, for now."""
    return primary_code(error) in _BUSY


def explain(error: sqlite3.Error, path: str) -> TransportError:
    """Returns the error to raise instead: one sentence on what is wrong with ``path``, and what to do."""
    code = primary_code(error)
    if code in _BUSY:
        return BrokerUnavailable(f"{path} is locked by another process ({error}); it is tried again")
    if code == sqlite3.SQLITE_FULL:
        return BrokerFull(f"{path} cannot grow ({error}): free some space on its disk")
    if code in _DAMAGED:
        return TransportError(
            f"{path} is damaged or no database of this engine ({error}): stop what uses it, then restore a copy or "
            "move it away. Nothing was repaired"
        )
    if code in _REFUSED:
        return TransportError(f"{path} cannot be written ({error}): give this user write access to it and its folder")
    if code == sqlite3.SQLITE_CANTOPEN:
        return TransportError(f"{path} cannot be opened ({error}): {_why_not_open(path)}")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT):
        return BrokerUnavailable(f"{path}: {error}")
    return TransportError(f"{path}: {error}")


def require_usable(path: str) -> None:
    """Raises ConfigError when the library or the place of the file rules out its use."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old, {needed} is needed: use a newer Python build")
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    kind = filesystem_of(str(Path(path).parent.resolve()), mounts)
    if kind in NETWORK_FILESYSTEMS:
        raise ConfigError(
            f"{path} lies on a network file system ({kind}), where SQLite's locks do not hold: use a local disk, or "
            "another broker for several hosts"
        )


def filesystem_of(folder: str, mountinfo: str) -> str:
    """Returns the type of the file system that an absolute, resolved ``folder`` lies on, "" if it cannot be told."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = fields[4].replace("\\040", " ")
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split(" ")[0]
    return kind


def _why_not_open(path: str) -> str:
    folder = Path(path).parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if Path(path).is_dir():
        return "it is a folder"
    return "are its folder and the file yours, and are files left to open?"
