"""What the README shows of the figures: a table of everybody, and how far the goals are met."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alone
from report import Results, middle, shown

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- figures: from measured runs -->", "<!-- end of figures -->"
COLUMNS = (
    ("CPU a task, µs", "drain", "cpu µs"),
    ("with results, µs", "drain, results", "cpu µs"),
    ("tasks/s", "drain", "tasks/s"),
    ("with results", "drain, results", "tasks/s"),
    ("one call, µs", "enqueue", "cpu µs"),
    ("round trip, ms", "round trip", "p50 ms"),
    ("memory, 2 children, MiB", "idle, 2 children", "MiB"),
    ("8 children", "idle, 8 children", "MiB"),
    ("start, s", "start", "s"),
)
ROWS = (
    "engine, Redis",
    "engine, SQLite",
    "engine, memory",
    "engine, RabbitMQ",
    "Celery tuned, Redis",
    "Dramatiq -t1 prefetch, Redis",
    "Huey, Redis",
    "Celery tuned, RabbitMQ",
    "Dramatiq -t1 prefetch, RabbitMQ",
    "floor, Redis",
)
REDIS, RABBIT, SQLITE = "engine, Redis", "engine, RabbitMQ", "engine, SQLite"
MEMORY, FLOOR = "engine, memory", "floor, Redis"
GOALS: tuple[tuple[str, str, str, str, float], ...] = (
    ("Redis, no results: CPU a task, µs", "drain", REDIS, "cpu µs", 20),
    ("Redis, no results: tasks a second", "drain", REDIS, "tasks/s", 40_000),
    ("Redis, results: CPU a task, µs", "drain, results", REDIS, "cpu µs", 30),
    ("Redis, results: tasks a second", "drain, results", REDIS, "tasks/s", 25_000),
    ("RabbitMQ, results in Redis: CPU a task, µs", "drain, results", RABBIT, "cpu µs", 70),
    ("RabbitMQ, results in Redis: tasks a second", "drain, results", RABBIT, "tasks/s", 10_000),
    ("SQLite, results: tasks a second", "drain, results", SQLITE, "tasks/s", 15_000),
    ("one call on Redis: client CPU, µs", "enqueue", REDIS, "cpu µs", 80),
    ("calls in bulk on Redis: client CPU, µs", "drain, results", REDIS, "bulk µs", 12),
    ("round trip on Redis, median, ms", "round trip", REDIS, "p50 ms", 0.6),
    ("round trip on Redis, 99th percentile, ms", "round trip", REDIS, "p99 ms", 2),
    ("one way on Redis, median, ms", "one way", REDIS, "p50 ms", 0.5),
    ("memory (PSS) on Redis, 2 idle children, MiB", "idle, 2 children", REDIS, "MiB", 40),
    ("memory (PSS) on Redis, 8 idle children, MiB", "idle, 8 children", REDIS, "MiB", 65),
    ("start to first task, Redis, s", "start", REDIS, "s", 0.4),
    ("1,000 no-ops beside a task of 10 s, 2 children, Redis, s", "no-ops beside a task of 10 s", REDIS, "s", 0.2),
)
SPREADS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("1, 2, 8 or 32 children", tuple(f"{children} children" for children in alone.CROWDS)),
    ("few or many messages waiting", tuple(f"{depth:,} waiting" for depth in alone.DEPTHS)),
    ("tasks that come one by one, or from a full queue", ("0 waiting", f"{alone.DEPTHS[0]:,} waiting")),
    ("1 or 100 queues", tuple(f"{queues} queues" for queues in alone.LINES)),
)
"""What the dispatcher's CPU a task should hardly depend on."""
SPREAD = 1.5
SCENARIOS = frozenset(
    [scenario for _, scenario, _ in COLUMNS]
    + [goal[1] for goal in GOALS]
    + [scenario for _, scenarios in SPREADS for scenario in scenarios]
)
"""All that is shown."""
FLOOR_FACTOR = 2.0
"""How many times the CPU of the floor may be used, with results on Redis."""
ABOUT = """## Figures

`scripts/bench` runs the engine, its peers ({peers}) and a hand-written floor side by
side: no-op tasks, 2 worker processes, broker and worker on the same CPUs, contenders in turn, medians. CPU is user and
system time of the whole worker tree, memory is proportional (PSS).
{date}, {machine}.

![Figures as a chart](scripts/benchmarks/results/chart.svg)
"""
NOTES = """
The floor is [a script](scripts/benchmarks/floor_worker.py) that does by hand what must be done at least, with no
limits, retries or recovery. The engine acknowledges late throughout; Celery early; Huey forgets what it has popped.
All figures: [figures.md](scripts/benchmarks/results/figures.md). Where the time goes:
[PROFILE.md](scripts/benchmarks/PROFILE.md).

| goal | at most, at least | measured | |
|---|---|---|---|"""


def write(results: Results) -> None:
    """Puts the section into the README, between its marks."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if END in rest else rest
    README.write_text(f"{before}{BEGIN}\n{section(results)}{END}{after}")


def section(results: Results) -> str:
    """Returns the section in Markdown."""
    versions = results["versions"]
    peers = ", ".join(f"{name.capitalize()} {versions[name]}" for name in ("celery", "dramatiq", "huey"))
    about = ABOUT.format(peers=peers, date=results["date"], machine=results["machine"])
    return "\n".join([about, *_table(results), NOTES, *_goals(results), ""]) + "\n"


def _table(results: Results) -> Iterator[str]:
    yield "| | " + " | ".join(title for title, _, _ in COLUMNS) + " |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for contender in ROWS:
        cells = [_cell(results, scenario, contender, figure) for _, scenario, figure in COLUMNS]
        if any(cells):
            name = f"**{contender}**" if contender.startswith("engine") else contender
            yield f"| {name} | " + " | ".join(cells) + " |"


def _goals(results: Results) -> Iterator[str]:
    for text, scenario, contender, figure, goal in GOALS:
        value = _value(results, scenario, contender, figure)
        if value is not None:
            yield _goal(text, shown(goal), shown(value), value >= goal if figure == "tasks/s" else value <= goal)
    ours, floor = (_value(results, "drain, results", one, "cpu µs") for one in (REDIS, FLOOR))
    if ours is not None and floor is not None:
        factor = ours / floor
        met = factor <= FLOOR_FACTOR
        yield _goal("Redis, results: CPU as a multiple of the floor's", shown(FLOOR_FACTOR), shown(factor), met)

    for one in (REDIS, SQLITE, MEMORY):
        for text, scenarios in SPREADS:
            values = [_value(results, scenario, one, "dispatcher µs") for scenario in scenarios]
            known = [value for value in values if value]
            if len(known) > 1:
                spread = max(known) / min(known)
                where = one.removeprefix("engine, ")
                what = f"{where}, {text}: most CPU of the dispatcher as a multiple of the least"
                yield _goal(what, shown(SPREAD), shown(spread), spread <= SPREAD)


def _goal(text: str, goal: str, value: str, met: bool) -> str:
    return f"| {text} | {goal} | {value} | {'met' if met else '**missed**'} |"


def _cell(results: Results, scenario: str, contender: str, figure: str) -> str:
    value = _value(results, scenario, contender, figure)
    return "" if value is None else shown(value)


def _value(results: Results, scenario: str, contender: str, figure: str) -> float | None:
    row: dict[str, Any] = results["scenarios"].get(scenario, {}).get(contender, {})
    return middle(row[figure]) if row.get(figure) else None
