"""When the owner of claims is dead, by a clock of the test's own."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.contract import Worker
from engine.contract.liveness import GRACE, DeathWatch, lock_is_free

ME = Worker("me", "host", "boot", "/no/lock")


class Watch:
    """A watch on a clock that only sleeping and the test move."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.watch = DeathWatch(ME, lambda: self.now, self.sleep)
        self.while_asleep = lambda: None

    def sleep(self, seconds: float) -> None:
        """Notes the sleep, and lets the test do something in it."""
        self.slept.append(seconds)
        self.now += seconds
        self.while_asleep()

    def dead(self, *seen: tuple[Worker, int]) -> list[str]:
        """Who is dead."""
        return self.watch.dead(seen)


@pytest.fixture
def watch() -> Watch:
    """A watch that has seen nobody yet."""
    return Watch()


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A lock file, and a descriptor that holds it."""
    path = tmp_path / "worker.lock"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield str(path), fd
    os.close(fd)


def _worker(**fields: object) -> Worker:
    known = {"id": "other", "host": "host", "boot_id": "boot", "lock": "/no/lock", "dead_after": 30.0}
    return Worker(**{**known, **fields})  # type: ignore[arg-type]  # as each test says


def test_a_beat_that_does_not_move_is_death_after_its_own_time(watch: Watch) -> None:
    slow, quick = _worker(id="slow", dead_after=30.0), _worker(id="quick", dead_after=1.0)
    assert watch.dead((slow, 5), (quick, 5)) == []
    watch.now += 0.9
    assert watch.dead((slow, 5), (quick, 5)) == []
    watch.now += 0.1
    assert watch.dead((slow, 5), (quick, 5)) == ["quick"]
    watch.now += 29.0
    assert watch.dead((slow, 5)) == ["slow"]


def test_a_beat_that_moved_starts_the_time_anew(watch: Watch) -> None:
    other = _worker(dead_after=1.0)
    for beat in range(10):
        assert watch.dead((other, beat)) == []
        watch.now += 0.9


def test_who_was_gone_and_is_back_is_watched_anew(watch: Watch) -> None:
    other = _worker(dead_after=1.0)
    assert watch.dead((other, 5)) == []
    assert watch.dead() == []
    watch.now += 60
    assert watch.dead((other, 5)) == []


def test_an_earlier_boot_of_this_host_is_death(watch: Watch) -> None:
    assert watch.dead((_worker(boot_id="an earlier boot"), 1)) == ["other"]
    assert watch.dead((_worker(host="elsewhere", boot_id="an earlier boot"), 1)) == []
    assert watch.slept == []


def test_a_lock_that_is_free_twice_is_death(watch: Watch, lock: tuple[str, int]) -> None:
    path, fd = lock
    assert watch.dead((_worker(lock=path), 1)) == []
    assert watch.slept == []
    fcntl.flock(fd, fcntl.LOCK_UN)
    assert watch.dead((_worker(lock=path), 1)) == ["other"]
    assert watch.slept == [GRACE]


def test_a_lock_that_is_taken_within_the_grace_is_no_death(watch: Watch, lock: tuple[str, int]) -> None:
    path, fd = lock
    fcntl.flock(fd, fcntl.LOCK_UN)
    watch.while_asleep = lambda: fcntl.flock(fd, fcntl.LOCK_EX)
    assert watch.dead((_worker(lock=path), 1)) == []


def test_a_free_lock_of_another_kernel_proves_nothing(watch: Watch, lock: tuple[str, int]) -> None:
    path, fd = lock
    fcntl.flock(fd, fcntl.LOCK_UN)
    assert watch.dead((_worker(lock=path, host="elsewhere", boot_id="another kernel"), 1)) == []


def test_a_missing_lock_proves_nothing_and_is_not_created(watch: Watch, tmp_path: Path) -> None:
    assert watch.dead((_worker(lock=str(tmp_path / "none.lock")), 1)) == []
    assert [*tmp_path.iterdir()] == []


def test_nobody_is_dead_to_himself(watch: Watch) -> None:
    assert watch.dead((ME, 1)) == []
    watch.now += 1e6
    assert watch.dead((ME, 1)) == []


def test_a_lock_in_a_missing_folder_is_not_free(tmp_path: Path) -> None:
    assert not lock_is_free(str(tmp_path / "missing" / "lock"))
