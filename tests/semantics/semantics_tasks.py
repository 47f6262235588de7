"""The tasks that the semantics tests run. Engines run a copy of this file in their own folder; the tests import it."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import hashlib
import logging
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

from semantics_kit import Hooked, Parcel, Sour, Strange, Sweet, Unfit, app, hold, log, note

from engine import (
    Ignore,
    Interrupted,
    JoinError,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    current_task,
    shared_task,
)

# Ends.


@app.task
def add(a: int, b: int) -> int:
    return a + b


def _end(self, how: str):
    """Ends in many ways."""
    note("start", self.request.id, os.getpid(), self.request.deliveries, self.request.retries)
    if how in _WAYS:
        return _WAYS[how]()
    if how.startswith("exit "):
        os._exit(int(how[5:]))
    return how


def _spin():
    while True:
        pass


def _eat():
    hoard = []
    while True:
        hoard.append(bytearray(4 << 20))
        time.sleep(0.01)


def _swallow():
    while True:
        try:
            _spin()
        except SoftTimeLimitExceeded:
            continue


def _raise(error):
    raise error


_WAYS = {
    "Sour": lambda: _raise(Sour("too sour", 7)),
    "spin": _spin,
    "swallow": _swallow,
    "eat": _eat,
    "Unfit": Unfit,
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
    "Strange": lambda: _raise(Strange("odd")),
    "Reject": lambda: _raise(Reject("not mine")),
    "Ignore": lambda: _raise(Ignore()),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda: ctypes.string_at(0),
    "SIGABRT": os.abort,
}

end = app.task(bind=True, base=Hooked, name="end", max_retries=2)(_end)
dead_end = app.task(bind=True, base=Hooked, name="dead_end", acks_on_failure_or_timeout=False)(_end)
early_end = app.task(bind=True, base=Hooked, name="early_end", acks_late=False)(_end)
small_end = app.task(bind=True, base=Hooked, name="small_end", memory_limit="60MB")(_end)
expected_end = app.task(bind=True, name="expected_end", throws=(Sour,))(_end)
named_end = app.task(
    bind=True, name="named_end", autoretry_for=(SoftTimeLimitExceeded,), max_retries=1, retry_kwargs={"countdown": 0}
)(_end)
broad_end = app.task(bind=True, name="broad_end", autoretry_for=(Exception,), default_retry_delay=0)(_end)
errors_only = app.task(bind=True, name="errors_only", ignore_result=True, store_errors_even_if_ignored=True)(_end)


@app.task(bind=True)
def die_once(self, how: str) -> list[int]:
    note("start", self.request.id, os.getpid(), self.request.deliveries, self.request.retries)
    if self.request.deliveries == 1:
        _end(self, how)
    return [self.request.deliveries, self.request.retries]


@app.task(bind=True)
def die_then_retry(self) -> list:
    """The process dies in the first delivery; the second retries; the retry tells."""
    seen = [self.request.deliveries, self.request.retries]
    note("start", self.request.id, *seen)
    if seen == [1, 0]:
        os.kill(os.getpid(), signal.SIGKILL)
    if seen == [2, 0]:
        raise self.retry(countdown=0)
    return seen


@app.task(bind=True)
def requeue_once(self) -> list[int]:
    note("start", self.request.id, time.time())
    if self.request.deliveries == 1:
        raise Reject("later", requeue=True)
    return [self.request.deliveries, self.request.retries]


@app.task
def record_link(*args) -> None:
    note("link", *args)


# Retries.


@app.task(bind=True, max_retries=2, default_retry_delay=0)
def always_retry(self, give_exc: bool = False, catch: bool = False):
    note("start", self.request.id, self.request.retries)
    if give_exc:
        raise self.retry(exc=Sour("given"))
    try:
        raise KeyError("handled")
    except KeyError:
        try:
            raise self.retry()
        except Retry:
            if not catch:
                raise
            return "swallowed"


@app.task(bind=True, max_retries=5, default_retry_delay=0)
def retry_until(self, runs: int) -> int:
    note("start", self.request.id, self.request.retries)
    try:
        if self.request.retries + 1 < runs:
            raise self.retry()
    except Exception:  # noqa: BLE001 - as much of the code in the field does it
        return -1
    return self.request.retries


early_retry_until = app.task(bind=True, name="early_retry_until", acks_late=False, max_retries=5)(
    lambda self, runs: (
        note("start", self.request.id, self.request.retries)
        or (self.request.retries if self.request.retries + 1 >= runs else self.retry(countdown=0))
    )
)


@app.task(bind=True)
def retry_quietly(self) -> str:
    if self.request.retries:
        return "second run"
    self.retry(countdown=0, throw=False)
    return "first run"


@app.task(bind=True)
def retry_later(self, seconds: float) -> str:
    note("start", self.request.id, self.request.retries)
    if not self.request.retries:
        raise self.retry(countdown=seconds, exc=Sour("not yet"))
    return "done"


@app.task(bind=True)
def retry_with_changes(self, word: str, *, number: int = 0) -> list:
    if not self.request.retries:
        raise self.retry(args=["changed"], kwargs={"number": 5}, countdown=0, priority=7, headers={"a": 2})
    return [word, number, self.request.priority, self.request.headers]


@app.task(bind=True)
def retry_and_tell(self) -> dict:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return _told(self)


@app.task(
    bind=True, autoretry_for=(Sour,), dont_autoretry_for=(Sweet,), retry_kwargs={"max_retries": 2, "countdown": 0}
)
def auto(self, kind: str):
    note("start", self.request.id, self.request.retries)
    raise {"Sour": Sour, "Sweet": Sweet, "KeyError": KeyError}[kind]("again")


@app.task(bind=True, autoretry_for=(Sour,), retry_backoff=0.1, retry_backoff_max=1, retry_jitter=False)
def backed_off(self):
    note("start", self.request.id, time.time())
    if self.request.retries < 1:
        raise Sour("once")


@app.task(bind=True, max_retries=2)
def retry_twice(self, key: int) -> int:
    """Two retries, some work, and processes that die at any moment."""
    note("run", key, self.request.retries, self.request.deliveries)
    time.sleep(0.002)
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    note("done", key)
    return self.request.retries


@app.task(bind=True)
def retry_twice_slowly(self):
    raise self.retry()


@app.task(bind=True, base=Hooked)
def hooked_retry(self) -> int:
    if not self.request.retries:
        raise self.retry(exc=Sour("hm"), countdown=0)
    return self.request.retries


# Calls.


def _told(self) -> dict:
    request = self.request
    names = (
        "id args kwargs retries eta expires origin hostname queue priority delivery_info deliveries root_id parent_id "
        "headers timelimit called_directly is_eager"
    )
    return {name: getattr(request, name) for name in names.split()}


@app.task(bind=True)
def tell(self, *args, **kwargs) -> dict:
    return _told(self)


@app.task(bind=True)
def send_two(self) -> list[str]:
    return [tell.delay().id, add.delay(1, 2).id]


@app.task(bind=True)
def wait_at(self, name: str) -> str:
    note("start", self.request.id, self.request.deliveries)
    hold(name)
    return name


@app.task(bind=True, base=Hooked)
def hooked_wait(self, name: str) -> str:
    note("start", self.request.id)
    hold(name)
    return name


@app.task(bind=True)
def end_at_gate(self, name: str) -> list[int]:
    note("start", self.request.id)
    hold(name)
    return [self.request.deliveries, self.request.run.crashes]


@app.task
def ordered(key: int) -> int:
    note("order", key)
    return key


@app.task
def stamp(key: int) -> None:
    note("stamp", key, time.time())


@app.task(rate_limit="50/s")
def limited(key: int) -> None:
    note("limited", key, time.time())


@app.task(rate_limit="1/s")
def slow_lane(key: int) -> None:
    note("slow", key, time.time())


@app.task
def typed(parcel: Parcel, wait: timedelta, tags: set[str], data: bytes) -> Parcel:
    note("typed", type(parcel).__name__, type(wait).__name__, type(tags).__name__, type(data).__name__)
    return dataclasses.replace(parcel, price=parcel.price * 2)


@app.task
async def gentle(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@shared_task(name="shared")
def shared() -> str:
    return "shared"


@app.task(aliases=("old_name",))
def renamed() -> str:
    return "renamed"


# Inside.


@app.task(bind=True, track_started=True)
def tracked(self, name: str) -> str:
    hold(name)
    return "ended"


@app.task(bind=True)
def states(self, last: str, then: str = "return") -> str:
    for number in range(50):
        self.update_state(state="STEP", meta={"number": number})
    self.update_state(state=last, meta={"number": 50})
    note("told", self.request.id)
    hold(self.request.id)
    if then != "return":
        _end(self, then)
    return "the end"


quiet_states = app.task(bind=True, name="quiet_states", ignore_result=True)(
    lambda self: [self.update_state(state="STEP", meta=1), note("told", self.request.id), hold(self.request.id)]
)


@app.task(bind=True)
def join(self, allow: bool = False):
    other = add.delay(2, 3)
    try:
        return other.get(timeout=10, allow_join=allow)
    except JoinError as error:
        return str(error)


@app.task
def speak() -> None:
    log.info("here I am")
    logging.getLogger("third.party").warning("me too")


@app.task
def say(text: str) -> None:
    print(text)
    hold(text)


@app.task
def blocked_in_c() -> str:
    """Computes for much longer than its limit without a look at Python."""
    try:
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 4_000_000)
    except SoftTimeLimitExceeded:
        return "limit seen"
    return "limit not seen"


@app.task(bind=True)
def shielded(self, seconds: float) -> list:
    kept = []
    try:
        with self.shield():
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.01)
            kept.append("whole")
        time.sleep(30)
    except SoftTimeLimitExceeded:
        kept.append("then the limit")
    return kept


@app.task(bind=True)
def time_left(self) -> list:
    return [self.time_left(), current_task.name, current_task.request.id == self.request.id]


@app.task(bind=True)
def stubborn(self, then: str) -> str:
    """Catches an interruption, and does something else."""
    note("start", self.request.id, os.getpid())
    try:
        while True:
            time.sleep(0.01)
    except Interrupted as interruption:
        note("interrupted", self.request.id, interruption.reason)
        if then == "raise":
            raise Sour("instead") from None
        if then == "retry":
            raise self.retry(countdown=0) from None
        while then == "stay":
            time.sleep(1)
        return "as if nothing had been"


@app.task(bind=True)
def deaf(self) -> str:
    """Goes on whatever is raised in it."""
    note("start", self.request.id, os.getpid())
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:  # noqa: BLE001 - the worst that a task can do
            note("ignored", self.request.id)


@app.task(bind=True)
def revoke_others(self, ids: list[str]) -> None:
    for id in ids:
        app.AsyncResult(id).revoke()


@app.task(bind=True, max_retries=None)
def retry_at_gate(self, name: str):
    note("start", self.request.id, self.request.retries)
    hold(name)
    raise self.retry(countdown=0)


def _retry_in_an_hour(self, name: str):
    note("start", self.request.id, self.request.retries)
    hold(name)
    raise self.retry(countdown=3600)


retry_in_an_hour = app.task(bind=True, name="retry_in_an_hour")(_retry_in_an_hour)
early_retry_in_an_hour = app.task(bind=True, name="early_retry_in_an_hour", acks_late=False)(_retry_in_an_hour)
early_wait = app.task(bind=True, name="early_wait", acks_late=False)(
    lambda self, name: [note("start", self.request.id), hold(name)][0]
)

if Path("late_tasks.py").exists():
    import late_tasks  # noqa: F401 - written by a test, then the engine is reloaded
