"""What only the engine is measured at: sizes, mixtures, depths, numbers of children and queues, heavy apps."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import versus
from contenders import Contender
from runs import Run, running
from trees import used
from versus import Figures, Servers

Scenarios = dict[str, tuple[Any, int, Callable[[Contender], bool]]]
MIB = 2**20
DEPTHS = (20_000, 100_000, 1_000_000)
CROWDS = (1, 2, 8, 32)
LINES = (1, 100)
FED = 10_000
"""Tasks that are sent one by one to a worker that runs."""
FIRST = 2000
"""Task of a long queue with which the measuring begins."""
MEASURED = 40_000
"""Tasks of a long queue that are measured: the rest only waits."""


def scenarios(scale: float, few: int, many: int, *, full: bool) -> Scenarios:
    """Returns by name what is measured, how often, and who takes part. With ``full`` a million messages, too."""

    def ours(one: Contender) -> bool:
        return one.module == "engine"

    def with_server(one: Contender) -> bool:
        return ours(one) and not one.worker_first

    def alike(one: Contender) -> bool:
        return ours(one) and one.broker != "rabbitmq"

    found: Scenarios = {}
    for text, size, count in (("1 KB", 1000, 20_000), ("100 KB", 100_000, 2000), ("1 MB", 1_000_000, 300)):
        found[f"payload of {text}"] = (partial(payload, size=size, tasks=int(count * scale)), few, with_server)
    for text, seconds, count in (("10 ms", 0.01, 30), ("1 s", 1.0, 1)):
        found[f"one way beside tasks of {text}"] = (partial(mixture, seconds=seconds, count=count), few, with_server)
    found["no-ops beside a task of 10 s"] = (fairness, few, ours)
    found["0 waiting"] = (fed, many, ours)
    for depth in DEPTHS if full else DEPTHS[:-1]:
        found[f"{depth:,} waiting"] = (partial(waiting, depth=depth), many if depth < 10**6 else 1, alike)
    for children in CROWDS:
        found[f"{children} children"] = (partial(crowd, children=children, scale=scale), many, alike)
    for queues in LINES:
        found[f"{queues} queues"] = (partial(lines, queues=queues, scale=scale), many, ours)
    found["an app of 100 MB"] = (heavy, few, lambda one: ours(one) and one.broker == "redis")
    return found


def payload(contender: Contender, servers: Servers, *, size: int, tasks: int) -> Figures:
    """Tasks with a large argument, which they digest; results are kept."""
    with running(contender, servers, keep=True) as run:
        _, _, sending = versus.start_on_full_queue(run, versus.CHILDREN, "send_payloads", tasks, size)
        figures = versus.measured_drain(run, tasks)
        versus.check(run)
    return figures | {"send µs": sending / tasks * 1e6, "MB/s": figures["tasks/s"] * size / 1e6}


def mixture(contender: Contender, servers: Servers, *, seconds: float, count: int) -> Figures:
    """One way of short tasks among long ones: who waits behind whom. Of 4 children, at most 3 have a long one."""
    with running(contender, servers) as run:
        run.start_and_warm(run.command(4))
        before = run.ledger.total
        stamped = 150
        for _ in range(3):
            run.ask("ask", "send_last", seconds, count)
            run.ask("stamps", stamped // 3, 50)
        run.wait_for(before + stamped)
        taken = [started - sent for sent, started in run.ledger.arrivals()]
    return versus.percentiles(taken)


def fairness(contender: Contender, servers: Servers) -> Figures:
    """How soon 1,000 no-ops are done that were sent together with a task of 10 s, to 2 children."""
    with running(contender, servers) as run:
        run.start_and_warm(run.command(2))
        before, start = run.ledger.total, time.monotonic()
        run.ask("ask", "send_beside", 10.0, 1000)
        return {"s": run.wait_for(before + 1000) - start}


def fed(contender: Contender, servers: Servers) -> Figures:
    """Tasks that are sent one by one to a worker that has nothing else to do."""
    with running(contender, servers) as run:
        run.start_and_warm(run.command(versus.CHILDREN))
        (worker, server), before, start = run.usage(), run.ledger.total, time.monotonic()
        run.ask("ask", "send", FED)
        wall = run.wait_for(before + FED) - start
        worker_end, server_end = run.settled_usage()
    return versus.each(FED, wall, used(worker, worker_end), used(server, server_end))


def waiting(contender: Contender, servers: Servers, *, depth: int) -> Figures:
    """The first tasks of a long queue, and what one message costs the server."""
    with running(contender, servers) as run:
        size = _server_size(run)
        _, wall, _ = versus.start_on_full_queue(run, versus.CHILDREN, "send_bulk", depth)
        grown = _server_size(run) - size
        figures = versus.measured_part(run, FIRST, min(depth, FIRST + MEASURED))
    return figures | {"sent/s": depth / wall, "server bytes": grown * MIB / depth}


def crowd(contender: Contender, servers: Servers, *, children: int, scale: float) -> Figures:
    """The drain with results, with more or fewer children."""
    tasks = int(contender.tasks * scale)
    with running(contender, servers, keep=True) as run:
        versus.start_on_full_queue(run, children, "send_bulk", tasks)
        return versus.measured_drain(run, tasks)


def lines(contender: Contender, servers: Servers, *, queues: int, scale: float) -> Figures:
    """The drain with results, from so many queues, filled evenly."""
    tasks = int(contender.tasks * scale)
    with running(contender, servers, keep=True, env={"BENCH_QUEUES": str(queues)}) as run:
        versus.start_on_full_queue(run, versus.CHILDREN, "send_around", tasks)
        return versus.measured_drain(run, tasks)


def heavy(contender: Contender, servers: Servers) -> Figures:
    """An app that brings 100 MB: start to first task, memory of 8 children, and how soon a killed child is replaced."""
    with running(contender, servers, env={"BENCH_BALLAST": "100"}) as run:
        command = run.command(8)
        run.ask("ask", "send_stamp", 0.0)
        begun = run.start(command)
        run.wait_for(1)
        (_, arrived), *_ = run.ledger.arrivals()
        run.worker.settle()
        sizes = run.worker.pss()
        gap = _replaced(run)
    return {"start s": arrived - begun, "MiB, 8 children": sum(sizes.values()), "new child ms": gap * 1e3}


def _replaced(run: Run) -> float:
    """Kills a child; returns the seconds until another one is there."""
    children = run.worker.of_role("child")
    pids = {one.pid for one in children}
    children[0].kill()
    killed = time.monotonic()
    run.until(lambda: any(one.pid not in pids for one in run.worker.of_role("child")), "a new child")
    return time.monotonic() - killed


def _server_size(run: Run) -> float:
    return sum(run.server.tree.pss().values()) if run.server else 0.0
