"""The tasks that process tests run: copied into each engine's folder, so that a reload can change them."""

import asyncio
import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

from engine import Engine, SoftTimeLimitExceeded, Task

app = Engine("test")
VERSION = 1


def note(text: str) -> None:
    """Appends one line to the ledger, in one write."""
    fd = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def version() -> int:
    return VERSION


@app.task(bind=True)
def ledger(self, key: int, seconds: float = 0.0) -> int:
    note(f"S {key} {os.getpid()} {self.request.deliveries}")
    time.sleep(seconds)
    note(f"E {key}")
    return key


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def spin() -> None:
    note(f"spin {os.getpid()} {time.monotonic()}")
    while True:
        pass


@app.task
def spin_in_c() -> None:
    note(f"c {os.getpid()} {time.monotonic()}")
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)


@app.task
def with_subprocess() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    escaped = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    note(f"sub {child.pid} {escaped.pid}")
    while True:
        time.sleep(1)


@app.task
def swallow() -> str:
    """Catches the soft limit and goes on for ever."""
    while True:
        try:
            while True:
                pass
        except SoftTimeLimitExceeded:
            continue


@app.task
def partial(steps: int) -> int:
    """Catches the soft limit and returns how far it came."""
    done = 0
    try:
        for _ in range(steps):
            time.sleep(0.01)
            done += 1
    except SoftTimeLimitExceeded:
        return done
    return -1


@app.task
def last(seconds: float) -> str:
    """Lasts as long as it says, busy; catches nothing."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return "done"


@app.task
def die(how: str, key: int = 0) -> None:
    note(f"D {key} {os.getpid()}")
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "SIGSEGV":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    os._exit(int(how))


@app.task
def leave_exit(code: int) -> None:
    sys.exit(code)


@app.task
def eat(megabytes: int) -> int:
    hoard = []
    for _ in range(megabytes):
        hoard.append(bytearray(1 << 20))
        time.sleep(0.005)
    return len(hoard)


@app.task
def hoard(megabytes: int, kept=[]) -> int:  # noqa: B006 - the leak is the point
    kept.append(bytearray(megabytes << 20))
    return os.getpid()


@app.task
def fork_and_return() -> str:
    os.fork()
    return "once"


@app.task
def close_everything() -> None:
    os.closerange(3, 65536)


@app.task
def disturb() -> int:
    """Leaves its process other than it found it."""
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    signal.setitimer(signal.ITIMER_REAL, 30)
    os.chdir("/")
    os.umask(0o777)
    os.close(1)
    return os.getpid()


@app.task
def where() -> list:
    mask = os.umask(0o022)
    os.umask(mask)
    timer = signal.getitimer(signal.ITIMER_REAL)[0]
    blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    return [os.getcwd(), mask, timer, blocked, os.path.exists("/proc/self/fd/1"), os.getpid()]


@app.task
def leave_threads(count: int, daemon: bool = True) -> int:
    for _ in range(count):
        threading.Thread(target=time.sleep, args=(600,), daemon=daemon).start()
    return os.getpid()


@app.task
async def in_a_thread() -> int:
    return await asyncio.to_thread(os.getpid)


@app.task
def shout(megabytes: int) -> None:
    for _ in range(megabytes):
        sys.stderr.write("x" * (1 << 20))


@app.task
def environment() -> dict:
    return {name: value for name, value in os.environ.items() if name.startswith("ENGINE_")}


@app.task
def facts() -> dict:
    return {
        "session": os.getsid(0) == os.getpid(),
        "stdin": os.readlink("/proc/self/fd/0"),
        "fds": [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3, 256) if os.path.lexists(f"/proc/self/fd/{fd}")],
        "parent": os.getppid(),
    }


@app.task(bind=True)
def nested(self, key: int) -> str:
    """Sends a task from inside a task."""
    return ledger.delay(key).id


@app.task(bind=True)
def shielded(self) -> str:
    """Is interrupted in a shield whose body then raises."""
    try:
        with self.shield():
            note("shielded")
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                time.sleep(0.01)
            raise ValueError("the body's own")
    except ValueError:
        time.sleep(600)
    return "went on"


class Blocking(Task):
    def on_failure(self, *args) -> None:
        note("hook")
        time.sleep(600)


@app.task(base=Blocking)
def fails_into_a_hook() -> None:
    while True:
        pass


@app.task
def breed() -> None:
    """Starts a program that forks and forks, and dies."""
    subprocess.Popen(["sh", "-c", "while :; do sleep 600 & done"], stderr=subprocess.DEVNULL)
    time.sleep(0.2)
    os._exit(3)
