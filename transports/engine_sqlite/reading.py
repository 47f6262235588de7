"""Reading claimed messages: one step for all of them, whatever their bodies hold.

The heads come as one JSON text, the bodies as one blob that is cut by their lengths: a body is never parsed or escaped.
A row that no JSON can carry (an id that is no UTF-8, put there by foreign hands) makes all be read row by row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.contract import Delivery
from engine_sqlite.rows import as_json

_HEADS = """
SELECT json_group_array(json_array(
        m.seq, CASE typeof(m.id) WHEN 'text' THEN m.id ELSE hex(m.id) END, m.claim, m.deliveries, m.crashes, m.priority,
        length(CAST(m.body AS BLOB)),
        EXISTS (SELECT 1 FROM revoked WHERE revoked.id = m.id AND revoked.until > ?)
    )),
    CAST(group_concat(CAST(m.body AS BLOB), '') AS BLOB)
FROM json_each(?) AS chosen CROSS JOIN message AS m ON m.seq = chosen.value
"""
_ONE_BY_ONE = """
SELECT m.seq, CAST(m.id AS BLOB), m.claim, m.deliveries, m.crashes, m.priority, CAST(m.body AS BLOB),
    EXISTS (SELECT 1 FROM revoked WHERE revoked.id = m.id AND revoked.until > ?)
FROM json_each(?) AS chosen CROSS JOIN message AS m ON m.seq = chosen.value
"""
_decoder = msgspec.json.Decoder(list[tuple[int, str, int, int, int, int, int, int]])


def read_deliveries(
    connection: sqlite3.Connection, rows: Sequence[int], queues: Mapping[int, str], now: float
) -> list[Delivery]:
    """Returns claimed messages, in the order of ``rows``; ``queues`` are their queues by row."""
    if not rows:
        return []
    chosen = as_json(rows)
    try:
        text, bodies = connection.execute(_HEADS, (now, chosen)).fetchone()
        heads = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, sqlite3.OperationalError, sqlite3.DataError):
        return [_odd(row, queues) for row in connection.execute(_ONE_BY_ONE, (now, chosen)).fetchall()]
    deliveries: list[Delivery] = []
    start = 0
    for seq, id, claim, counted, crashes, priority, length, revoked in heads:
        body = bodies[start : start + length]
        start += length
        deliveries.append(
            Delivery(id, queues[seq], body, b"%d:%d" % (seq, claim), counted, crashes, priority, bool(revoked))
        )
    return deliveries


def _odd(row: Sequence[Any], queues: Mapping[int, str]) -> Delivery:
    seq, id, claim, counted, crashes, priority, body, revoked = row
    name = bytes(id).decode(errors="backslashreplace")
    return Delivery(
        name,
        queues[seq],
        body or b"",
        b"%d:%d" % (seq, claim),
        _whole(counted, 1),
        _whole(crashes, 0),
        _whole(priority, 0),
        bool(revoked),
    )


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise
