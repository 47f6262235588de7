"""The demo's tasks: ``documents.process`` and ``documents.search``."""

from __future__ import annotations

import os
import sqlite3
from typing import Any, TypedDict

from engine import Engine, Task
from engine.demo.index import Hit, Index
from engine.demo.reading import UnreadableDocument, read_chunks

app = Engine("demo")

INDEX_PATH = os.environ.get("ENGINE_DEMO_INDEX") or "demo-index.db"
"""Where the index is. Read now: children no longer see the variable."""

_index: Index | None = None
"""Of this child: a SQLite connection must not be carried across a fork."""


class Processed(TypedDict):
    """What became of a document."""

    path: str
    chunks: int
    words: int


@app.on_child_start
def open_index() -> Index:
    """Opens the index, once in each child; in other processes it is opened at the first use."""
    global _index
    if _index is None:
        _index = Index(INDEX_PATH)
    return _index


@app.on_child_stop
def close_index() -> None:
    """Closes the index."""
    global _index
    if _index is not None:
        _index.close()
    _index = None


@app.task(
    name="documents.process",
    bind=True,
    soft_time_limit=60,
    time_limit=90,
    autoretry_for=(sqlite3.OperationalError,),
    retry_backoff=True,
    max_retries=5,
    throws=(OSError, UnreadableDocument),
)
def process(self: Task[..., Any], path: str) -> Processed:
    """Reads a text, Markdown, HTML or Python file and puts it into the index, in the place of its former content.

    While it writes, its state is PROGRESS with ``{"done": chunks, "total": chunks}``. Processing a file twice is the
    same as once, so the task may run again after a crash. Fails with OSError when the file cannot be opened and with
    UnreadableDocument when it holds no text.
    """
    chunks = read_chunks(path)
    total = len(chunks)

    def report(done: int) -> None:
        self.update_state(state="PROGRESS", meta={"done": done, "total": total})

    report(0)
    open_index().replace(path, chunks, report)
    return Processed(path=path, chunks=total, words=sum(chunk.words for chunk in chunks))


@app.task(name="documents.search", soft_time_limit=10, time_limit=15)
def search(query: str, limit: int = 5) -> list[Hit]:
    """Returns the ``limit`` best places that hold all words of the query, best first, each with a snippet in which the
    words stand in brackets."""
    return open_index().search(query, limit)
