"""What the demo does: finds documents, has them processed, and shows what came of them."""

from __future__ import annotations

import sysconfig
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from engine import AsyncResult
from engine.demo.index import Hit
from engine.demo.reading import SPLITTERS
from engine.demo.tasks import Processed, process, search
from engine.demo.worker import DemoFailed, Worker

ENOUGH = 1000
"""So many documents the demo wants at least; it looks for them in the standard library first."""
_RESULT_TIMEOUT = 120.0
_EXPECTED = "UnreadableDocument"


def find_documents(limit: int) -> list[Path]:
    """Returns up to ``limit`` documents of this machine's Python: those of its standard library and, when these are
    few, those of installed packages."""
    found: dict[Path, None] = {}
    for scheme in ("stdlib", "platstdlib", "purelib", "platlib"):
        if len(found) < min(ENOUGH, limit):
            found |= dict.fromkeys(_documents_below(Path(sysconfig.get_path(scheme))))
    return list(found)[:limit]


def run(worker: Worker, limit: int, query: str) -> None:
    """Runs the demo from start to stop. Raises DemoFailed if anything is not as it should be."""
    documents = find_documents(limit)
    click.echo(f"Found {len(documents):,} documents of this machine's Python.")
    status = worker.start()
    click.echo(f"The engine is up: pid {status['pid']}, {status['concurrency']} children, broker {status['broker']}.")
    started = time.monotonic()
    results = process.map(str(file) for file in documents)
    click.echo(f"Sent {len(results):,} tasks in {time.monotonic() - started:.2f} s.")
    ends = _follow(results)
    _show(ends, time.monotonic() - started)
    _show_hits(query, search.delay(query, limit=3).get(timeout=_RESULT_TIMEOUT))
    worker.stop()
    click.echo("The engine has stopped by itself, with status 0.")


def _documents_below(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        below = file.relative_to(folder).parts
        if file.suffix in SPLITTERS and not {"site-packages", "dist-packages"} & set(below) and file.is_file():
            yield file


def _follow(results: Sequence[AsyncResult[Processed]]) -> list[AsyncResult[Processed]]:
    """Waits for all results, in the order in which they were asked for."""
    with click.progressbar(results, label="Reading and indexing", item_show_func=_show_item) as bar:
        for result in bar:
            result.get(timeout=_RESULT_TIMEOUT, propagate=False)
    return list(results)


def _show_item(result: AsyncResult[Processed] | None) -> str | None:
    return None if result is None else f"task {result.id[:8]}"


def _show(results: Sequence[AsyncResult[Processed]], seconds: float) -> None:
    values: list[Processed] = []
    failures: list[Any] = []
    for result in results:
        (values if result.successful() else failures).append(result.result)
    states = Counter(result.state for result in results)
    click.echo("States: " + ", ".join(f"{state} {count:,}" for state, count in states.most_common()))
    chunks = sum(value["chunks"] for value in values)
    words = sum(value["words"] for value in values)
    rate = len(values) / seconds
    click.echo(f"{chunks:,} chunks, {words:,} words in {seconds:.1f} s: {rate:,.0f} documents a second.")
    for failure in failures[:5]:
        click.echo(f"  {type(failure).__name__}: {failure}")
    unexpected = [failure for failure in failures if _EXPECTED not in f"{type(failure).__name__} {failure}"]
    if unexpected:
        raise DemoFailed(f"{len(unexpected)} tasks failed, the first with: {unexpected[0]!r}")


def _show_hits(query: str, hits: Sequence[Hit]) -> None:
    if not hits:
        raise DemoFailed(f'a search for "{query}" found nothing')
    click.echo(f'Best places for "{query}":')
    for hit in hits:
        snippet = " ".join(hit["snippet"].split())
        click.echo(f"  {hit['path']}:{hit['line']} ({hit['heading']})\n    {snippet}")
