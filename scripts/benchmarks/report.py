"""What comes out: tables for the terminal and the README, and the chart."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes

from contenders import CONTENDERS
from servers import Server

Results = dict[str, Any]
Scenario = Mapping[str, Mapping[str, list[float]]]
"""Contender -> figure -> one value of each round."""

PEERS = ("celery", "kombu", "dramatiq", "huey", "redis", "hiredis", "pika")
OURS, FLOOR, PEER = "#1f6f8b", "#9aa5ab", "#d08c60"
DRAWN = (
    ("drain", "cpu µs", "CPU a task, no results (µs)"),
    ("drain, results", "cpu µs", "CPU a task, with results (µs)"),
    ("drain, results", "tasks/s", "tasks a second, with results"),
    ("enqueue", "cpu µs", "client CPU of a call (µs)"),
    ("round trip", "p50 ms", "round trip of an idle worker (ms, median)"),
    ("idle, 8 children", "MiB", "idle worker of 8 children (MiB)"),
)


def head(servers: Mapping[str, Server], before: Path | None) -> Results:
    """Returns results without figures yet: when, where, and the versions of everybody; or with those that lie in the
    folder ``before``."""
    file = None if before is None else before / "figures.json"
    found = json.loads(file.read_text()) if file is not None and file.exists() else {}
    versions = found.get("versions", {}) | {name: importlib.metadata.version(name) for name in PEERS}
    here = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} CPUs (load {os.getloadavg()[0]:.1f} before the run), Linux "
        f"{platform.release().partition('-')[0]}, Python {platform.python_version()}",
    }
    return here | {
        "versions": versions | {server.name + " server": server.version for server in servers.values()},
        "scenarios": found.get("scenarios", {}),
        "dates": found.get("dates", {}),
    }


def add(results: Results, name: str, scenario: Scenario) -> None:
    """Puts the figures of a scenario in, in the order of the contenders."""
    rows = results["scenarios"].get(name, {}) | scenario
    order = {one.name: place for place, one in enumerate(CONTENDERS)}
    results["dates"][name] = results["date"]
    results["scenarios"][name] = {one: rows[one] for one in sorted(rows, key=lambda one: order.get(one, len(order)))}


def middle(values: list[float]) -> float:
    """Returns the median of the rounds."""
    return statistics.median(values)


def table(name: str, scenario: Scenario) -> str:
    """Returns a table for the terminal, with every figure."""
    figures = list(dict.fromkeys(figure for row in scenario.values() for figure in row))
    width = max((len(contender) for contender in scenario), default=10)
    lines = [f"{name:{width}}" + "".join(f"{figure:>15}" for figure in figures)]
    for contender, row in scenario.items():
        cells = (f"{shown(middle(row[figure])):>15}" if figure in row else f"{'':15}" for figure in figures)
        lines.append(f"{contender:{width}}" + "".join(cells))
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """Returns all figures as tables of Markdown."""
    parts = [f"{results['date']}, {results['machine']}; {_versions(results)}. Medians.\n"]
    for name, scenario in results["scenarios"].items():
        figures = list(dict.fromkeys(figure for row in scenario.values() for figure in row))
        parts.append(f"\n## {name} ({results['dates'].get(name, results['date'])})\n")
        parts.append("| | " + " | ".join(figures) + " |")
        parts.append("|---" * (len(figures) + 1) + "|")
        for contender, row in scenario.items():
            cells = (shown(middle(row[figure])) if figure in row else "" for figure in figures)
            parts.append(f"| {contender} | " + " | ".join(cells) + " |")
    return "\n".join(parts) + "\n"


def draw(results: Results, folder: Path) -> None:
    """Draws the chart, as SVG and PNG."""
    drawn = [(one, figure, title) for one, figure, title in DRAWN if results["scenarios"].get(one)]
    if not drawn:
        return
    # Text as text, and no random names: a small file that changes only with the figures.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "engine", "font.size": 9})
    rows = (len(drawn) + 1) // 2
    most = max(len(results["scenarios"][one]) for one, _, _ in drawn)
    chart, axes = pyplot.subplots(rows, 2, figsize=(11, rows * (0.9 + 0.24 * most)), squeeze=False)
    for axis in axes.flat[len(drawn) :]:
        axis.remove()
    for axis, (one, figure, title) in zip(axes.flat, drawn, strict=False):
        _bars(axis, results["scenarios"][one], figure, title)
    chart.tight_layout()
    chart.savefig(folder / "chart.svg", metadata={"Date": None})
    chart.savefig(folder / "chart.png", dpi=110)
    pyplot.close(chart)


def _bars(axis: Axes, scenario: Scenario, figure: str, title: str) -> None:
    rows = [(contender, middle(row[figure])) for contender, row in scenario.items() if figure in row]
    names, values = [name for name, _ in rows], [value for _, value in rows]
    bars = axis.barh(names, values, color=[_color(name) for name in names])
    axis.bar_label(bars, labels=[shown(value) for value in values], padding=3)
    axis.invert_yaxis()
    axis.set_title(title, loc="left")
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.set_xticks([])
    axis.margins(x=0.15)


def _color(contender: str) -> str:
    if contender.startswith("engine"):
        return OURS
    return FLOOR if contender.startswith("floor") else PEER


def _versions(results: Results) -> str:
    return ", ".join(f"{name} {version}" for name, version in results["versions"].items())


def shown(value: float) -> str:
    """Returns a figure with as many digits as mean something."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
