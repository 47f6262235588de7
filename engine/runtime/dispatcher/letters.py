"""Runs in the dispatcher: looks through the dead letters, in the publish lane, when claims have been compared.

Those whose task was unknown when they died and is known now are put back. Those that a takeover made, and whose end is
not on record, are returned: the worker that took over heard no answer, or died before it wrote the end down.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from engine.contract.message import Message
from engine.contract.results import Record
from engine.contract.transport import DeadLetter, Transport
from engine.errors import MessageError, TransportError
from engine.runtime.dispatcher.link import Link
from engine.runtime.dispatcher.registry import Registry

log = logging.getLogger("engine.dispatcher")

UNKNOWN = "unknown task "
"""How the reason of a dead letter begins whose task nobody knew; the name follows."""
TAKEOVER = ("crash limit", "delivery limit")
"""How the reasons begin of those that a takeover made."""
LOOKED_AT = 1000
"""Dead letters that are looked at, the latest first."""


def look_through(link: Link, registry: Registry, since: float) -> list[DeadLetter] | None:
    """Replays what this worker's tasks can run; returns, whole, what a takeover made ``since`` then (seconds since the
    epoch) and is not on record. None: it could not look, and should try again."""
    try:
        letters = link.transport.dead(LOOKED_AT)
        _replay_known(link.transport, letters, registry)
        return _unrecorded(link, [letter for letter in letters if letter.died >= since])
    except TransportError as error:
        # In an outage that was told already: each attempt would be a line.
        level = logging.DEBUG if link.broker_outage.lasts else logging.WARNING
        log.log(level, "dead letters are looked through later: %s", error)
        return None


def _replay_known(transport: Transport, letters: Sequence[DeadLetter], registry: Registry) -> None:
    ids = [
        letter.id
        for letter in letters
        if letter.reason.startswith(UNKNOWN) and letter.reason.removeprefix(UNKNOWN) in registry
    ]
    count = transport.replay(ids) if ids else 0
    if count:
        log.info("%d dead letters are replayed: their tasks are known now", count)


def _unrecorded(link: Link, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    ids = [letter.id for letter in letters if letter.reason.startswith(TAKEOVER)]
    if not ids or link.results is None:
        return []
    records = link.results.get(ids)
    whole = [link.transport.dead_letter(id) for id in ids]
    return [letter for letter in whole if letter is not None and not _is_recorded(letter, records.get(letter.id))]


def _is_recorded(letter: DeadLetter, record: Record | None) -> bool:
    try:
        message = Message.decode(letter.body)
    except MessageError:
        return True  # nobody knows whose end it would be
    last = (message.sent, message.retries, letter.deliveries)
    return record is not None and (record.order > last or (record.final and record.order == last))
