"""What every contender is measured at. Each function makes one run and returns its figures by name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from contenders import Contender
from runs import Run, running
from servers import Server
from trees import used

Figures = dict[str, float]
Servers = Mapping[str, Server]

WARM = 0.15
"""Part of a drain that is not measured: start-up, and processes and caches that get warm."""
SAMPLE = 100
CHILDREN = 2


def drain(contender: Contender, servers: Servers, *, keep: bool, scale: float = 1.0) -> Figures:
    """No-op tasks from a queue that is full beforehand: tasks a second, and CPU of worker and server for each. Fails
    when a result is missing in a sample."""
    tasks = max(1000, int(contender.tasks * scale))
    with running(contender, servers, keep=keep) as run:
        _, _, sending = start_on_full_queue(run, CHILDREN, "send_bulk", tasks)
        figures = measured_drain(run, tasks)
        figures["bulk µs"] = sending / tasks * 1e6
        if keep:
            check(run)
    return figures


def start_on_full_queue(run: Run, children: int, function: str, *arguments: Any) -> list[float]:
    """Has the client send, and the worker begin when all is sent; returns how many, and wall and CPU seconds."""
    command = run.command(children)
    if not run.contender.worker_first:
        sent: list[float] = run.ask("keep", function, *arguments)
        run.start(command)
        return sent
    run.start(command)
    run.ask("ask", "hold")
    sent = run.ask("keep", function, *arguments)
    run.ask("ask", "let_go")
    return sent


def measured_drain(run: Run, tasks: int) -> Figures:
    """Measures what is left of a drain that is under way."""
    run.wait_for(int(tasks * WARM))
    (worker, server), begun, start = run.usage(), run.ledger.total, time.monotonic()
    wall = run.wait_for(tasks) - start
    worker_end, server_end = run.settled_usage()
    done = tasks - begun
    roles = used(worker, worker_end)
    return each(done, wall, roles, used(server, server_end))


def measured_part(run: Run, first: int, last: int) -> Figures:
    """Measures a drain between two of its tasks; it may go on."""
    run.wait_for(first)
    (worker, server), begun, start = run.usage(), run.ledger.total, time.monotonic()
    run.wait_for(last)
    (worker_end, server_end), ended, end = run.usage(), run.ledger.total, time.monotonic()
    return each(ended - begun, end - start, used(worker, worker_end), used(server, server_end))


def each(done: int, wall: float, roles: dict[str, float], server: dict[str, float]) -> Figures:
    """Returns what was used for each task."""
    figures = {"tasks/s": done / wall, "cpu µs": sum(roles.values()) / done * 1e6}
    figures["server µs"] = sum(server.values()) / done * 1e6
    return figures | {f"{role} µs": spent / done * 1e6 for role, spent in roles.items()}


def enqueue(contender: Contender, servers: Servers, *, scale: float = 1.0) -> Figures:
    """Client CPU of sending one by one; there is no worker, unless the engine must be there for it."""
    tasks = max(300, int(3000 * scale))
    with running(contender, servers, keep=True) as run:
        command = run.command(1)
        if contender.worker_first:
            run.start_and_warm(command)
            run.ask("ask", "hold")
        run.ask("keep", "send", 50)
        _, wall, cpu = run.ask("keep", "send", tasks)
    return {"cpu µs": cpu / tasks * 1e6, "wall µs": wall / tasks * 1e6}


def round_trip(contender: Contender, servers: Servers, *, scale: float = 1.0) -> Figures:
    """Sends one task to an idle worker and waits for its result, again and again."""
    with running(contender, servers, keep=True) as run:
        run.start_and_warm(run.command(CHILDREN))
        run.ask("calls", 20)
        taken = run.ask("calls", max(50, int(500 * scale)))
    return percentiles(taken)


def one_way(contender: Contender, servers: Servers, *, scale: float = 1.0) -> Figures:
    """From the call to the start of the task, at 50 tasks a second, no results."""
    with running(contender, servers) as run:
        run.start_and_warm(run.command(CHILDREN))
        count, before = max(50, int(250 * scale)), run.ledger.total
        run.ask("stamps", count, 50)
        run.wait_for(before + count)
        taken = [started - sent for sent, started in run.ledger.arrivals()]
    return percentiles(taken)


def idle(contender: Contender, servers: Servers, *, children: int, seconds: float = 5.0) -> Figures:
    """Proportional memory (PSS) and CPU of a worker that has done some tasks and has nothing to do."""
    with running(contender, servers, keep=True) as run:
        run.start_and_warm(run.command(children), tasks=10 * children)
        before = run.worker.cpu()
        time.sleep(seconds)
        spent = used(before, run.worker.cpu())
        sizes = run.worker.pss()
    figures = {"MiB": sum(sizes.values()), "cpu %": sum(spent.values()) / seconds * 100}
    return figures | {f"{role} MiB": size for role, size in sizes.items()}


def start(contender: Contender, servers: Servers) -> Figures:
    """From the start of the worker's first process to the start of a task that waits in the queue."""
    with running(contender, servers) as run:
        command = run.command(CHILDREN)
        run.ask("ask", "send_stamp", 0.0)
        begun = run.start(command)
        run.wait_for(1)
        (_, arrived), *_ = run.ledger.arrivals()
    return {"s": arrived - begun}


def percentiles(seconds: list[float]) -> Figures:
    """Returns median, 90th and 99th percentile in ms."""
    ordered = sorted(seconds)
    return {f"p{part} ms": ordered[int(len(ordered) * part / 100)] * 1e3 for part in (50, 90, 99)}


def check(run: Run) -> None:
    """Raises RuntimeError when a result is missing in a sample."""
    found, asked = run.ask("check", SAMPLE)
    if found < asked:
        raise RuntimeError(f"{run.contender.name}: {asked - found} of {asked} results are missing:\n{run.log}")
