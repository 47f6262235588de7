"""The search index: chunks of documents in a SQLite database with full-text search.

Several processes may write at once: each document is replaced in one transaction, and SQLite lets them in one by one.
A connection belongs to the process and thread that opened it; after a fork, open another.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import TypedDict

from engine.demo.chunks import Chunk

BUSY_TIMEOUT = 30.0
"""Seconds that a writer waits for its turn."""
SLICE = 50
"""Chunks written between two reports of progress."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS document (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, words INTEGER NOT NULL, indexed REAL NOT NULL);
CREATE TABLE IF NOT EXISTS chunk (
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES document(id) ON DELETE CASCADE,
    heading TEXT NOT NULL, line INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS chunk_document ON chunk(document);
CREATE VIRTUAL TABLE IF NOT EXISTS entry USING fts5(
    heading, text, content='chunk', content_rowid='id', tokenize='porter unicode61');
CREATE TRIGGER IF NOT EXISTS chunk_inserted AFTER INSERT ON chunk BEGIN
    INSERT INTO entry(rowid, heading, text) VALUES (new.id, new.heading, new.text);
END;
CREATE TRIGGER IF NOT EXISTS chunk_deleted AFTER DELETE ON chunk BEGIN
    INSERT INTO entry(entry, rowid, heading, text) VALUES ('delete', old.id, old.heading, old.text);
END;
"""
_SEARCH = """
SELECT document.path, chunk.heading, chunk.line, snippet(entry, 1, '[', ']', ' ... ', 16), -bm25(entry, 4.0, 1.0)
FROM entry JOIN chunk ON chunk.id = entry.rowid JOIN document ON document.id = chunk.document
WHERE entry MATCH ? ORDER BY bm25(entry, 4.0, 1.0) LIMIT ?
"""


class Hit(TypedDict):
    """One answer of a search; a higher score is a better one."""

    path: str
    heading: str
    line: int
    snippet: str
    score: float


class Totals(TypedDict):
    """What the index holds."""

    documents: int
    chunks: int
    words: int


class Index:
    """A connection to the index at ``path``, which is made if it is not there."""

    def __init__(self, path: str) -> None:
        """Opens (or makes) the index. Raises RuntimeError when this Python's SQLite has no full-text search, and
        sqlite3.Error when the file cannot be opened."""
        self.path = path
        self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        try:
            self._enter_wal_mode()
            # A writer's transaction from the start: of several processes one makes the tables, the others wait.
            self._db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
        except sqlite3.OperationalError as error:
            self._db.close()
            if "fts5" in str(error):
                raise RuntimeError("this Python's SQLite has no FTS5: use another build of Python") from error
            raise

    def _enter_wal_mode(self) -> None:
        """SQLite does not wait here, whatever the timeout, when several processes make the file at once."""
        deadline = time.monotonic() + BUSY_TIMEOUT
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.001, 0.02))

    def replace(self, path: str, chunks: Sequence[Chunk], progress: Callable[[int], None]) -> None:
        """Puts a document in the place of what is there under its path, all or nothing. ``progress`` is called now and
        then with how many chunks are written."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM document WHERE path = ?", (path,))
            words = sum(chunk.words for chunk in chunks)
            document = self._db.execute(
                "INSERT INTO document(path, words, indexed) VALUES (?, ?, ?)", (path, words, time.time())
            ).lastrowid
            for start in range(0, len(chunks), SLICE):
                some = chunks[start : start + SLICE]
                self._db.executemany(
                    "INSERT INTO chunk(document, heading, line, text) VALUES (?, ?, ?, ?)",
                    [(document, _storable(chunk.heading), chunk.line, _storable(chunk.text)) for chunk in some],
                )
                progress(start + len(some))

    def search(self, query: str, limit: int) -> list[Hit]:
        """Returns the best chunks that hold all words of the query, best first."""
        match = match_expression(query)
        if not match:
            return []
        rows = self._db.execute(_SEARCH, (match, limit))
        return [Hit(path=row[0], heading=row[1], line=row[2], snippet=row[3], score=row[4]) for row in rows]

    def totals(self) -> Totals:
        """Counts what is there."""
        row = self._db.execute(
            "SELECT count(*), (SELECT count(*) FROM chunk), coalesce(sum(words), 0) FROM document"
        ).fetchone()
        return Totals(documents=row[0], chunks=row[1], words=row[2])

    def close(self) -> None:
        """Closes the connection."""
        self._db.close()


def match_expression(query: str) -> str:
    """Turns a user's words into a full-text expression. Each word is quoted: nothing in it is an operator."""
    return " ".join('"' + word.replace('"', '""') + '"' for word in query.replace("\0", " ").split())


def _storable(text: str) -> str:
    """Without what SQLite cannot keep as text: a source with escaped surrogates in a chosen encoding may hold some."""
    return text.encode("utf-8", "replace").decode()
