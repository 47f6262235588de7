"""``spool:///folder``: a result backend made of files in a folder, for the processes of one machine.

There is one file for each task: a line of JSON that says which run wrote it, and behind it the record's body.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.contract import Record, ResultBackend, hookimpl
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError

POLL = 0.02
"""Seconds between two looks for records that somebody waits for."""
SWEEP = 60.0
"""Seconds between two looks for records that have expired."""


class SpoolResults(ResultBackend):
    """Keeps records in files. What a method is for stands in `engine.contract.ResultBackend`."""

    def __init__(self, url: str, *, expires: float, options: Mapping[str, Any]) -> None:
        super().__init__(url, expires=expires, options=options)
        path = url.partition("://")[2]
        if not path:
            raise ConfigError(f'[results] url = "{url}": name a folder, as in "spool:///var/lib/engine"')
        self._path = Path(path).absolute()
        self._records = self._path / "records"
        self._swept = time.monotonic()

    def store(self, records: Sequence[Record]) -> None:
        with self._locked():
            for record in records:
                kept = self._read(record.id)
                # One that asks for removal is kept as a mark, so that an older run cannot come back.
                if kept.order <= record.order if kept is not None else record.keep:
                    self._write(record)
            self._sweep()

    def get(self, ids: Sequence[str]) -> Mapping[str, Record]:
        with self._locked():
            found = {id: self._read(id) for id in ids}
        return {id: record for id, record in found.items() if record is not None and record.keep}

    def wait(self, ids: Sequence[str], timeout: float) -> Iterator[Record]:
        deadline = time.monotonic() + timeout
        missing = list(dict.fromkeys(ids))
        while missing:
            ended = {id: record for id, record in self.get(missing).items() if record.final}
            missing = [id for id in missing if id not in ended]
            yield from ended.values()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            if missing:
                time.sleep(min(left, POLL))

    def forget(self, ids: Sequence[str]) -> None:
        with self._locked():
            for id in ids:
                self._file(id).unlink(missing_ok=True)

    def close(self) -> None:
        """Does nothing: no file stays open."""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lets one thread of one process in at a time. The lock of a process that dies is free."""
        try:
            self._records.mkdir(parents=True, exist_ok=True)
            with open(self._path / "lock", "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise (BrokerFull if is_full else BrokerUnavailable)(f"{self._path}: {error.strerror or error}") from error

    def _file(self, id: str) -> Path:
        # An id may hold any character; the name of a file may not.
        return self._records / hashlib.sha256(id.encode()).hexdigest()

    def _read(self, id: str) -> Record | None:
        """Returns what is kept, a mark included; None when there is nothing, or it has expired."""
        try:
            line, _, body = self._file(id).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        kept = json.loads(line)
        if kept.pop("until") <= time.time():
            return None
        return Record(id, body=body, **kept)

    def _write(self, record: Record) -> None:
        kept = {name: getattr(record, name) for name in ("state", "sent", "retries", "deliveries", "final", "keep")}
        line = json.dumps({**kept, "until": time.time() + self.expires})
        draft = self._path / f"draft-{os.getpid()}"
        draft.write_bytes(line.encode() + b"\n" + record.body)
        draft.replace(self._file(record.id))

    def _sweep(self) -> None:
        """Deletes what has expired, now and then."""
        if time.monotonic() - self._swept < SWEEP:
            return
        self._swept = time.monotonic()
        for file in self._records.iterdir():
            with open(file, "rb") as kept:
                has_expired = json.loads(kept.readline())["until"] <= time.time()
            if has_expired:
                file.unlink()


@hookimpl
def engine_results(scheme: str) -> type[ResultBackend] | None:
    """Answers for the scheme "spool"."""
    return SpoolResults if scheme == "spool" else None
