"""Measures what the README states: `scripts/measure throughput|limits|idle|soft|crash|waiting`.

Prints tables, asserts nothing. CPU time is of the whole worker tree, from /proc; walls are monotonic. Run it on an
otherwise quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from engine import Engine
from engine.app.calls import new_id
from engine.contract import Envelope
from engine.testing.faults.brokers import Redis
from engine.testing.harness import EngineProcess, toml, wait_for
from engine_redis import RedisTransport

TASKS = """
import os, time, hashlib
from engine import Engine
app = Engine("measure")

@app.task
def noop():
    return None

def note():
    fd = os.open("starts", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{os.getpid()} {time.monotonic()}\\n".encode())
    os.close(fd)

@app.task
def spin():
    note()
    while True:
        pass

@app.task
def last(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return "done"

@app.task
def sleep(seconds):
    note()
    time.sleep(seconds)

@app.task
def spin_in_c():
    note()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)
"""


@contextlib.contextmanager
def site(concurrency: int, broker: str = "sqlite", app: str = "tasks"):
    """Runs an engine in a folder of its own; yields (engine, client, folder)."""
    with tempfile.TemporaryDirectory(prefix="engine-measure-") as name:
        folder = Path(name).resolve()
        (folder / "tasks.py").write_text(TASKS)
        url = "memory://" if broker == "memory" else f"sqlite:///{folder}/engine.db"
        config = toml(app, broker=url, concurrency=concurrency, worker='log_level = "WARNING"')
        engine = EngineProcess(folder, config.replace('dead_after = "1s"', ""))
        yield engine, url, folder
        engine.close()


def client_of(engine: EngineProcess, url: str) -> Engine:
    """Returns a client of the engine."""
    if url == "memory://":
        return Engine.from_toml(str(engine.config))
    return Engine("measure-client", broker=url, backend=url)


def cpu_by_role(engine: EngineProcess) -> dict[str, float]:
    """Returns CPU seconds (user + system) by role."""
    spent: dict[str, float] = {}
    status = engine.status()
    for row in status["processes"]:
        times = psutil.Process(row["pid"]).cpu_times()
        spent[row["role"]] = spent.get(row["role"], 0.0) + times.user + times.system
    for row in status["slots"]:
        times = psutil.Process(row["pid"]).cpu_times()
        spent["children"] = spent.get("children", 0.0) + times.user + times.system
    return spent


def throughput(options: argparse.Namespace) -> None:
    """Drains no-op tasks with results from a full queue."""
    for broker in options.brokers:
        for _ in range(options.rounds):
            with site(options.children, broker) as (engine, url, _):
                if broker == "memory":
                    engine.start()
                    client = client_of(engine, url)
                    client.client.broker(lambda transport: transport.pause("default", True))
                    ids = fill(client, options.tasks)
                    before, start = cpu_by_role(engine), time.monotonic()
                    client.client.broker(lambda transport: transport.pause("default", False))
                else:
                    client = client_of(engine, url)
                    ids = fill(client, options.tasks)
                    engine.start()
                    before, start = dict.fromkeys(cpu_by_role(engine), 0.0), time.monotonic()
                while not drained(client):
                    time.sleep(0.05)  # each look costs the broker a little
                wall = time.monotonic() - start
                spent = {role: seconds - before.get(role, 0.0) for role, seconds in cpu_by_role(engine).items()}
                missing = sum(
                    1 for id_ in ids[:: max(1, len(ids) // 200)] if client.AsyncResult(id_).state != "SUCCESS"
                )
                client.close()
                engine.stop()
            parts = ", ".join(f"{role} {seconds / options.tasks * 1e6:.1f}" for role, seconds in spent.items())
            print(
                f"{broker}: {options.tasks / wall:,.0f} tasks/s, CPU us/task: "
                f"{sum(spent.values()) / options.tasks * 1e6:.1f} ({parts}); {missing} sampled results missing"
            )


def fill(client: Engine, count: int) -> list[str]:
    """Sends ``count`` no-op tasks in bulk."""
    start, cpu = time.monotonic(), time.process_time()
    results = client.send_many([client.signature("tasks.noop")] * count)
    used = (time.process_time() - cpu) / count * 1e6
    print(f"  sent {count} in {time.monotonic() - start:.2f} s, client CPU {used:.1f} us/task")
    return [result.id for result in results]


def drained(client: Engine) -> bool:
    """Is nothing ready or claimed?"""
    counts = client.client.broker(lambda transport: transport.counts())
    return sum(c.ready + c.claimed + c.delayed for c in counts.values()) == 0


def limits(options: argparse.Namespace) -> None:
    """Compares the lateness of hard limits with that of a bare stop-look-kill loop in the same run."""
    for task in ("spin", "spin_in_c"):
        for children in options.children_list:
            ours, bare = [], []
            for _ in range(options.rounds):
                bare += bare_lateness(children, options.limit)
                ours += engine_lateness(task, children, options.limit)
            print(f"{task}, {children} together: engine {row(ours)}; bare loop {row(bare)}")


def row(values: list[float]) -> str:
    """Formats lateness in ms."""
    ms = sorted(value * 1000 for value in values)
    return f"median {statistics.median(ms):.1f} ms, p99 {ms[int(len(ms) * 0.99)]:.1f}, max {ms[-1]:.1f}"


def engine_lateness(task: str, children: int, limit: float) -> list[float]:
    """Returns, for each child, its death minus (its start plus the limit)."""
    with site(children) as (engine, url, folder):
        engine.start()
        client = client_of(engine, url)
        for _ in range(children):
            client.send_task(f"tasks.{task}", time_limit=limit)
        ledger = folder / "starts"
        wait_for(lambda: ledger.exists() and len(ledger.read_text().splitlines()) == children, "all to run")
        started = [line.split() for line in ledger.read_text().splitlines()]
        late = watch({int(pid): float(at) + limit for pid, at in started})
        client.close()
        engine.stop()
    return late


def watch(deadlines: dict[int, float]) -> list[float]:
    """Returns how long after its deadline each process died."""
    poller = select.poll()
    fds = {os.pidfd_open(pid): at for pid, at in deadlines.items()}
    for fd in fds:
        poller.register(fd, select.POLLIN)
    late = []
    while fds:
        for fd, _ in poller.poll():
            late.append(time.monotonic() - fds.pop(fd))
            poller.unregister(fd)
            os.close(fd)
    return late


def bare_lateness(children: int, limit: float) -> list[float]:
    """The same with nothing around it: fork, spin, sleep until the limit, stop, look, kill, reap."""
    deadlines = {}
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            while True:
                pass
        deadlines[pid] = time.monotonic() + limit
    late = []
    while deadlines:
        time.sleep(max(0.0, min(deadlines.values()) - time.monotonic()))
        due = [pid for pid, at in deadlines.items() if at <= time.monotonic()]
        for pid in due:
            os.kill(pid, signal.SIGSTOP)
        for pid in due:
            os.waitid(os.P_PID, pid, os.WSTOPPED)
            if deadlines[pid] <= time.monotonic():
                os.kill(pid, signal.SIGKILL)
        for pid in due:
            os.waitpid(pid, 0)
            late.append(time.monotonic() - deadlines.pop(pid))
    return late


def idle(options: argparse.Namespace) -> None:
    """CPU and proportional memory (PSS) of an engine that has nothing to do, running the demo app."""
    for children in options.children_list:
        with site(children, app="engine.demo:app") as (engine, _, _):
            engine.start()
            time.sleep(options.settle)
            before, start = sum(cpu_by_role(engine).values()), time.monotonic()
            time.sleep(options.seconds)
            cpu = (sum(cpu_by_role(engine).values()) - before) / (time.monotonic() - start)
            sizes = {}
            status = engine.status()
            for process in (*status["processes"], *status["slots"]):
                role = process.get("role", "children")
                pss = psutil.Process(process["pid"]).memory_full_info().pss / 2**20
                sizes[role] = sizes.get(role, 0.0) + pss
            engine.stop()
        parts = ", ".join(f"{role} {size:.1f}" for role, size in sizes.items())
        print(f"{children} children: CPU {cpu * 100:.2f} %, PSS {sum(sizes.values()):.1f} MiB ({parts})")


def soft(options: argparse.Namespace) -> None:
    """Tasks that last exactly as long as their soft limit, with others that have none in between."""
    with site(options.children) as (engine, url, _):
        engine.start()
        client = client_of(engine, url)
        guilty, innocent = [], []
        for _ in range(options.tasks):
            guilty.append(client.send_task("tasks.last", (0.005,), soft_time_limit=0.005))
            innocent.append(client.send_task("tasks.noop"))
        wait_for(lambda: drained(client), "all to end", 1200)
        ends = Counter(type(r.get(timeout=10, propagate=False)).__name__ for r in guilty)
        others = Counter(type(r.get(timeout=10, propagate=False)).__name__ for r in innocent)
        client.close()
        engine.stop()
    print(f"{options.tasks} tasks as long as their soft limit: {dict(ends)}; as many without one: {dict(others)}")


def crash(options: argparse.Namespace) -> None:
    """From the kill -9 of a child to the next start of the task that it ran."""
    gaps = []
    with site(options.children) as (engine, url, folder):
        engine.start()
        client = client_of(engine, url)
        ledger = folder / "starts"
        for _ in range(options.rounds):
            ledger.unlink(missing_ok=True)
            result = client.send_task("tasks.sleep", (0.3,))
            wait_for(ledger.exists, "it to run")
            wait_for(lambda ledger=ledger: ledger.read_text().endswith("\n"), "it to run")
            pid = int(ledger.read_text().split()[0])
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda ledger=ledger: len(ledger.read_text().splitlines()) == 2, "it to run again")
            gaps.append(float(ledger.read_text().splitlines()[1].split()[1]) - killed)
            result.get(timeout=10)
        client.close()
        engine.stop()
    print(f"{options.rounds} kills, {options.children} children: running again after {row(gaps)}")


def waiting(options: argparse.Namespace) -> None:
    """What Redis needs for a message that waits, beside its body."""
    with tempfile.TemporaryDirectory(prefix="engine-measure-") as name:
        server = Redis(Path(name))
        server.start()
        # The buffers of the file and the log of slow commands belong to no message.
        server.ask(b"CONFIG SET appendonly no\r\n")
        server.ask(b"CONFIG SET slowlog-log-slower-than -1\r\n")
        try:
            for body in options.bodies:
                ready, delayed = (overhead(server, options.messages, body, due) for due in (None, 2.0**32))
                print(
                    f"{options.messages:,} messages with a body of {body} bytes: beside it, a ready one takes "
                    f"{ready:.1f} bytes, a delayed one {delayed:.1f}"
                )
        finally:
            server.close()


def overhead(server: Redis, count: int, body: int, due: float | None) -> float:
    """Returns by how much Redis's ``used_memory`` grows with each message, without its body."""
    server.ask(b"FLUSHALL SYNC\r\n")
    send_bodies(server.url, 1, body, due)  # the scripts are loaded
    before = used_memory(server)
    send_bodies(server.url, count, body, due)
    return (used_memory(server) - before) / count - body


def send_bodies(url: str, count: int, body: int, due: float | None) -> None:
    """Sends messages over a connection of their own: what its buffers take is given back."""
    transport = RedisTransport(url, options={})
    for start in range(0, count, 1000):
        more = min(1000, count - start)
        transport.publish([Envelope(new_id(), b"x" * body, due=due) for _ in range(more)])
    transport.close()


def used_memory(server: Redis) -> int:
    """Returns what Redis says about itself."""
    lines = server.ask(b"INFO memory\r\n").splitlines()
    return next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"used_memory:"))


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/measure", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("throughput", help="no-op tasks with results, from a full queue")
    one.add_argument("--tasks", type=int, default=50_000)
    one.add_argument("--children", type=int, default=2)
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--brokers", nargs="+", default=["memory", "sqlite"])
    one.set_defaults(run=throughput)
    two = verbs.add_parser("limits", help="lateness of hard limits beside a bare loop")
    two.add_argument("--children-list", type=int, nargs="+", default=[1, 2, 8, 16, 20])
    two.add_argument("--limit", type=float, default=2.0, help="seconds")
    two.add_argument("--rounds", type=int, default=5)
    two.set_defaults(run=limits)
    three = verbs.add_parser("idle", help="CPU and memory of an idle engine")
    three.add_argument("--children-list", type=int, nargs="+", default=[2, 8, 16])
    three.add_argument("--seconds", type=float, default=20)
    three.add_argument("--settle", type=float, default=3)
    three.set_defaults(run=idle)
    four = verbs.add_parser("soft", help="soft limits that are hit exactly")
    four.add_argument("--tasks", type=int, default=10_000)
    four.add_argument("--children", type=int, default=2)
    four.set_defaults(run=soft)
    five = verbs.add_parser("crash", help="how soon a killed child's task runs again")
    five.add_argument("--rounds", type=int, default=20)
    five.add_argument("--children", type=int, default=2)
    five.set_defaults(run=crash)
    six = verbs.add_parser("waiting", help="memory of Redis for a message that waits")
    six.add_argument("--messages", type=int, default=50_000)
    six.add_argument("--bodies", type=int, nargs="+", default=[150, 400, 1000], help="bytes")
    six.set_defaults(run=waiting)
    options = parser.parse_args()
    options.run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
