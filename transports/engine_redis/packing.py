"""How envelopes, settlements and records are written for the scripts, and read back."""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

import msgspec

from engine.contract import Ack, Again, DeadLetter, Envelope, Record, Release, Settlement
from engine.errors import TransportError
from engine_redis.connection import Argument
from engine_redis.digest import sha1_hex

LARGEST_BATCH = 1000
"""Items that one script takes: it holds up everybody else's commands."""
LARGEST_BYTES = 16 * 2**20
"""Bytes of bodies after which a script gets no further item."""
LONGEST_NAME = 40
"""Ids longer than this are claimed by their digest: see the prelude of the scripts."""
_SHORT = 0xFF
"""What an id in its short form begins with, and no text in UTF-8."""

Item = TypeVar("Item")


def slices(items: Sequence[Item], sizes: Sequence[int]) -> Iterator[Sequence[Item]]:
    """Cuts items into what one script takes."""
    if len(items) <= LARGEST_BATCH and sum(sizes) <= LARGEST_BYTES:
        yield items
        return
    start = size = 0
    for position, more in enumerate(sizes):
        if position > start and (position - start >= LARGEST_BATCH or size + more > LARGEST_BYTES):
            yield items[start:position]
            start, size = position, 0
        size += more
    yield items[start:]


@lru_cache(maxsize=4096)
def line_of(priority: int, queue: str) -> bytes:
    """Returns the name of the line of a queue and priority. Raises TransportError for a name that cannot be one."""
    if "\n" in queue:
        raise TransportError(f"a queue's name is one line of text, not {queue!r}")
    return f"{min(max(priority, 0), 9)}:{queue}".encode()


@lru_cache(maxsize=4096)
def parts_of(line: bytes) -> tuple[int, str]:
    """Returns priority and queue of a line."""
    return int(line[:1]), line[2:].decode(errors="replace")


def pack_id(id: str) -> bytes:
    """Returns an id as the keys of messages hold it: of a UUID, written as usual, a mark and its 16 bytes; any other as
    it is. A waiting message has it twice."""
    if len(id) == 36 and id[8:24:5] == "----" and id == id.lower():
        try:
            short = unhexlify("ff" + id.replace("-", ""))
        except ValueError:
            return id.encode()
        if len(short) == 17:
            return short
    return id.encode()


def unpack_id(packed: bytes) -> str:
    """Returns the id that `pack_id` was given."""
    if len(packed) == 17 and packed[0] == _SHORT:
        text = packed.hex("-", 2)  # ff-0123-4567-89ab-cdef-0123-4567-89ab-cdef
        return f"{text[3:7]}{text[8:32]}{text[33:37]}{text[38:]}"
    return packed.decode(errors="replace")


def claim_name(id: bytes) -> bytes:
    """Returns what a message of this id, packed, is claimed by."""
    return id if len(id) <= LONGEST_NAME else sha1_hex(id).encode()


def pack_envelopes(envelopes: Sequence[Envelope]) -> list[Argument]:
    """Returns the arguments of ``publish``, without the producer."""
    arguments: list[Argument] = []
    for envelope in envelopes:
        line = line_of(envelope.priority, envelope.queue)
        arguments += (pack_id(envelope.id), line, _seconds(envelope.due), envelope.body)
    return arguments


def settlement_size(settlement: Settlement) -> int:
    """Returns the bytes of the bodies in a settlement."""
    record = settlement.record
    size = len(record.body) if record is not None else 0
    return size + len(settlement.envelope.body) if type(settlement) is Again else size


class Settling:
    """The arguments of ``settle`` for some settlements: those that acknowledge come first."""

    __slots__ = ("arguments", "claims")

    def __init__(self, worker: str, settlements: Sequence[Settlement], expires: int | None) -> None:
        acks = [one for one in settlements if type(one) is Ack]
        others = [] if len(acks) == len(settlements) else [one for one in settlements if type(one) is not Ack]
        self.claims = [one.claim for one in acks]
        self.claims += [one.claim for one in others]
        arguments: list[Argument] = [worker, "" if expires is None else expires, len(self.claims), len(acks)]
        arguments += self.claims
        for one in others:
            arguments += _pack_end(one)
        if expires is not None:
            position = 0
            for part in (acks, others):
                for one in part:
                    if one.record is not None:
                        arguments += (position, one.record.id, pack_record(one.record))
                    position += 1
        self.arguments = arguments


def _pack_end(settlement: Settlement) -> tuple[Argument, ...]:
    if isinstance(settlement, Again):
        envelope = settlement.envelope
        line = line_of(envelope.priority, envelope.queue)
        return ("again", pack_id(envelope.id), line, _seconds(envelope.due), envelope.body)
    if isinstance(settlement, Release):
        return (
            "release",
            _seconds(settlement.at),
            int(settlement.counts != "nothing"),
            int(settlement.counts == "crash"),
        )
    assert not isinstance(settlement, Ack)
    return ("dead", settlement.reason, int(settlement.crashed))


def _seconds(time: float | None) -> str:
    # Not repr(): a duration is a float that shows itself in another way.
    return "" if time is None else float.__repr__(time)


def pack_record(record: Record) -> bytes:
    """Writes a record as it is kept."""
    if not record.keep:
        return b"%b %d %d 00 0\n" % (_seconds(record.sent).encode(), record.retries, record.deliveries)
    state = record.state.encode()
    head = f"{_seconds(record.sent)} {record.retries} {record.deliveries} {record.final:d}1 {len(state)}\n".encode()
    return b"%b%b%b" % (head, state, record.body)


def unpack_record(id: str, kept: bytes) -> Record | None:
    """Reads a record; None for a mark, and for what is no record."""
    head, _, rest = kept.partition(b"\n")
    try:
        sent, retries, deliveries, flags, length = head.split(b" ")
        if flags[1:] != b"1":
            return None
        end = int(length)
        state, body = rest[:end].decode(), rest[end:]
        return Record(id, state, float(sent), int(retries), int(deliveries), body, flags[:1] == b"1")
    except ValueError:
        return None


def unpack_letter(id: bytes, letter: bytes, body: bytes) -> DeadLetter:
    """Reads a dead letter."""
    head, _, reason = letter.partition(b"\n")
    died, deliveries, crashes, line = head.split(b" ", 3)
    return DeadLetter(
        unpack_id(id),
        parts_of(line)[1],
        reason.decode(errors="replace"),
        float(died),
        int(deliveries),
        int(crashes),
        body,
    )


def description(worker: object) -> bytes:
    """Writes what others know of a worker."""
    return msgspec.json.encode(worker, enc_hook=float)
