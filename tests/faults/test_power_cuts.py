"""The power fails while an engine works on SQLite: what its disk holds at any moment is a queue in order.

Every process is stopped, and the file is copied with its write-ahead log; the shared memory beside them is lost, as it
would be. A copy with the whole log is what remains when all processes are killed: nothing that was acknowledged may be
missing. A copy whose log ends anywhere behind what has reached the file is what remains when the power fails
(`synchronous = "normal"` writes the log without waiting for the disk): the last messages may be missing, in order.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from faults_rig import APP, Rig

from engine import Engine
from engine.testing.faults.ledger import Ledger
from engine.testing.harness import EngineProcess, toml, wait_for

COPIES = 25
SENT_BETWEEN = 30
FILE = "engine.db"
WAL_HEADER = 32
"""Bytes before the first frame of a log (sqlite.org/fileformat2.html, 4.1)."""
FRAME_HEADER = 24
BACKFILLED_AT = 96
"""Where the shared memory says how many frames have reached the file (sqlite.org/walformat.html, 2.1)."""


@dataclass(frozen=True)
class Copy:
    """What was on the disk at one moment."""

    folder: Path
    sent: Sequence[str]
    """What the broker had acknowledged, in order."""

    def open(self) -> closing[sqlite3.Connection]:
        """Opens it, as the first process after the accident."""
        return closing(sqlite3.connect(self.folder / FILE))

    def cut(self, folder: Path, rng: random.Random) -> Copy:
        """Returns a copy of it whose log ends at some byte that was not yet safe."""
        shutil.copytree(self.folder, folder)
        log = folder / f"{FILE}-wal"
        if log.exists():
            safe = int((folder / "safe").read_text())
            with log.open("r+b") as file:
                file.truncate(rng.randint(min(safe, log.stat().st_size), log.stat().st_size))
        return Copy(folder, self.sent)


def _copy(rig: Rig, folder: Path, sent: Sequence[str]) -> Copy:
    folder.mkdir()
    processes = rig.engine.processes()
    for process in processes:
        process.suspend()
    wait_for(lambda: all(one.status() == psutil.STATUS_STOPPED for one in processes), "all processes to stop")
    source = rig.folder / FILE
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{source}{suffix}", folder / f"{FILE}{suffix}")
    (folder / "safe").write_text(str(_safe(source)))
    for process in processes:
        process.resume()
    return Copy(folder, tuple(sent))


def _safe(source: Path) -> int:
    """Returns up to which byte the log was flushed: before frames are copied into the file, the log is."""
    page = int.from_bytes(source.read_bytes()[16:18], "big")
    frames: int = struct.unpack_from("=I", Path(f"{source}-shm").read_bytes(), BACKFILLED_AT)[0]
    return WAL_HEADER + frames * (FRAME_HEADER + page) if frames else 0


def _check(copy: Copy) -> tuple[set[str], set[str]]:
    """Checks that each message is in one place; returns the ids at the broker, and those with a final record."""
    with copy.open() as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not database.execute("SELECT 1 FROM sqlite_schema").fetchall():
            return set(), set()  # before anything was safe
        waiting = [id for (id,) in database.execute("SELECT id FROM message UNION ALL SELECT id FROM dead")]
        ended = [id for (id,) in database.execute("SELECT id FROM result WHERE final")]
        states = {state for (state,) in database.execute("SELECT DISTINCT state FROM result WHERE final")}
    assert len(waiting) == len(set(waiting)), "in two places"
    assert len(ended) == len(set(ended)), "ended twice"
    assert not set(waiting) & set(ended), "ended, and still there"
    assert states <= {"SUCCESS"}
    return set(waiting), set(ended)


def _run_on(copy: Copy) -> None:
    """An engine finds the copy, and does what it holds: nothing that had ended starts again."""
    waiting, ended = _check(copy)
    url = f"sqlite:///{copy.folder}/{FILE}"
    engine = EngineProcess(copy.folder, toml(APP, broker=url)).start()
    client = Engine("client", broker=url, backend=url)
    try:
        for id in waiting:
            assert client.AsyncResult(id).get(timeout=30) == id
    finally:
        client.close()
        engine.close()
    assert Ledger(copy.folder).read().count().keys() == waiting
    assert _check(copy) == (set(), waiting | ended)


def test_whatever_moment_the_power_fails_at_each_message_is_in_one_place(
    rigs: Callable[..., Rig], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(5)
    place = tmp_path_factory.mktemp("copies")
    rig = rigs("sqlite")
    rig.start(concurrency=4)
    sent: list[str] = []
    copies: list[Copy] = []
    while len(copies) < COPIES:
        for _ in range(SENT_BETWEEN):
            sent.append(rig.send("sleep", 0.002, headers={"ballast": "x" * 4000}).id)
        time.sleep(rng.random() / 20)  # any moment will do
        copies.append(_copy(rig, place / str(len(copies)), sent))
    assert len(rig.ledger().ends) > SENT_BETWEEN
    cuts = [copy.cut(place / f"cut{number}", rng) for number, copy in enumerate(copies)]
    for copy in copies:
        waiting, ended = _check(copy)
        assert waiting | ended == set(copy.sent), "acknowledged, and missing"
    missing = 0
    for copy in cuts:
        waiting, ended = _check(copy)
        there = waiting | ended
        assert there == set(copy.sent[: len(there)]), "a message is missing before one that is there"
        missing += len(copy.sent) - len(there)
    assert missing, "no cut cost anything"
    _run_on(copies[COPIES // 2])
    _run_on(max(cuts, key=lambda copy: len(_check(copy)[0])))
