"""What only the engine is measured at: sizes, mixtures, depths, numbers of children and queues, heavy apps."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import versus
from contenders import Contender
from runs import Run, running
from versus import Figures, Servers

Scenarios = dict[str, tuple[Any, int, Callable[[Contender], bool]]]
MIB = 2**20


def scenarios(options: argparse.Namespace, rounds: int) -> Scenarios:
    """Returns by name what is measured, how often, and who takes part."""

    def ours(one: Contender) -> bool:
        return one.module == "engine" and not one.worker_first

    def on_redis(one: Contender) -> bool:
        return one.module == "engine" and one.broker == "redis"

    found: Scenarios = {}
    for text, size, count in (("1 KB", 1000, 20_000), ("100 KB", 100_000, 2000), ("1 MB", 1_000_000, 300)):
        found[f"payload of {text}"] = (partial(payload, size=size, tasks=count), rounds, ours)
    for text, seconds, count in (("10 ms", 0.01, 30), ("1 s", 1.0, 1)):
        found[f"one way beside tasks of {text}"] = (partial(mixture, seconds=seconds, count=count), rounds, ours)
    depth = 1_000_000 if options.full else 100_000
    found[f"{depth:,} waiting"] = (partial(waiting, depth=depth), 1, ours)
    for children in (1, 2, 8, 32):
        found[f"{children} children"] = (partial(crowd, children=children), rounds, on_redis)
    for queues in (1, 100):
        found[f"{queues} queues"] = (partial(lines, queues=queues), rounds, ours)
    found["an app of 100 MB"] = (heavy, rounds, on_redis)
    return found


def payload(contender: Contender, servers: Servers, *, size: int, tasks: int) -> Figures:
    """Tasks with a large argument, which they digest; results are kept."""
    with running(contender, servers, keep=True) as run:
        command = run.command(versus.CHILDREN)
        _, _, sending = run.ask("keep", "send_payloads", tasks, size)
        run.start(command)
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


def waiting(contender: Contender, servers: Servers, *, depth: int) -> Figures:
    """A drain of a long queue, and what one message costs the server."""
    with running(contender, servers) as run:
        command = run.command(versus.CHILDREN)
        size = _server_size(run)
        wall = 0.0
        for _ in range(depth // 50_000):
            wall += run.ask("keep", "send_bulk", 50_000)[1]
        grown = _server_size(run) - size
        run.start(command)
        figures = versus.measured_drain(run, depth)
    return figures | {"sent/s": depth / wall, "server bytes": grown * MIB / depth}


def crowd(contender: Contender, servers: Servers, *, children: int) -> Figures:
    """The drain with results, with more or fewer children."""
    tasks = contender.tasks
    with running(contender, servers, keep=True) as run:
        command = run.command(children)
        run.ask("keep", "send_bulk", tasks)
        run.start(command)
        return versus.measured_drain(run, tasks)


def lines(contender: Contender, servers: Servers, *, queues: int) -> Figures:
    """The drain with results, from so many queues, filled evenly."""
    tasks = contender.tasks
    with running(contender, servers, keep=True, env={"BENCH_QUEUES": str(queues)}) as run:
        command = run.command(versus.CHILDREN)
        run.ask("keep", "send_around", tasks)
        run.start(command)
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
