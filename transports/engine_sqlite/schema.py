"""The tables, and their version. README.md describes them for whoever looks into the file by other means."""

from __future__ import annotations

import sqlite3

from engine.errors import ConfigError

VERSION = 1
APPLICATION = 0x656E676E
"""``PRAGMA application_id`` of the engine's files: "engn"."""

READY = 0
DELAYED = 1
CLAIMED = 2

_TABLES = f"""
CREATE TABLE tick (one INTEGER PRIMARY KEY CHECK (one = 1), n INTEGER NOT NULL);
INSERT INTO tick VALUES (1, 0);

CREATE TABLE message (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    queue TEXT NOT NULL DEFAULT 'default',
    priority INTEGER NOT NULL DEFAULT 0,
    state INTEGER NOT NULL DEFAULT {READY},
    place INTEGER,
    due REAL,
    owner INTEGER,
    claim INTEGER,
    started INTEGER NOT NULL DEFAULT 0,
    deliveries INTEGER NOT NULL DEFAULT 1,
    crashes INTEGER NOT NULL DEFAULT 0,
    body BLOB NOT NULL
);
CREATE INDEX message_ready ON message (queue, priority DESC, place) WHERE state = {READY};
CREATE INDEX message_delayed ON message (due) WHERE state = {DELAYED};
CREATE INDEX message_claimed ON message (owner) WHERE state = {CLAIMED};

CREATE TABLE dead (
    id TEXT PRIMARY KEY,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    reason TEXT NOT NULL,
    died REAL NOT NULL,
    deliveries INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX dead_died ON dead (died);

CREATE TABLE worker (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    lock TEXT NOT NULL,
    dead_after REAL NOT NULL,
    beat INTEGER NOT NULL,
    seen REAL NOT NULL
);
CREATE TABLE bell (
    topic TEXT NOT NULL,
    address TEXT NOT NULL,
    space INTEGER NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (topic, address)
) WITHOUT ROWID;
CREATE TABLE producer (producer TEXT PRIMARY KEY, number INTEGER NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE revoked (id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE paused (queue TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE command (n INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, body BLOB NOT NULL);

CREATE TABLE result (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    sent REAL NOT NULL,
    retries INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    final INTEGER NOT NULL,
    keep INTEGER NOT NULL,
    expires REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX result_expires ON result (expires);
"""


def is_current(connection: sqlite3.Connection, path: str) -> bool:
    """Says whether the file has this version's tables; False: it is empty. Raises ConfigError for another's file.

    Outside a transaction, another process may create them between two reads. So it is looked first whether there are
    tables: all that is read later was written in the same transaction."""
    if not _pragma(connection, "schema_version"):
        return False
    if _pragma(connection, "application_id") != APPLICATION:
        raise ConfigError(f"{path} holds the tables of another program: name a file of its own for the engine")
    version = _pragma(connection, "user_version")
    if version != VERSION:
        raise ConfigError(f"{path} has the tables of version {version}, this engine those of {VERSION}: update it")
    return True


def create(connection: sqlite3.Connection, path: str) -> None:
    """Creates the tables, unless another process just has. Runs inside a write transaction."""
    if is_current(connection, path):
        return
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
