"""Broken messages and packets, made from whole ones: by bytes, and by what the bytes mean."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

NASTY: Sequence[Any] = (
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, 0.5, -0.0, 1e308, -1e308, 5e-324, "", " ",
    "\x00", "\ud7ff", "x" * 300, "é" * 200, "../../etc/passwd", "{}", "null", "1e999", [], {}, [[]], [None], {"": None},
    [[[[[[[[[[]]]]]]]]]], {"a": {"a": {"a": {"a": 1}}}}, [0] * 100, "A" * 5000,
)  # fmt: skip
"""Values to put where others are expected."""
SPLICES = (
    b"\x00",
    b"\xff",
    b"\xc1",
    b"{",
    b"}",
    b"[" * 50,
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"NaN",
    b"1" * 400,
    b",",
    b":",
)


class Mutator:
    """Breaks things, each time in another way, and in the same ways for the same seed.

    ``load`` and ``dump`` turn bytes into lists, dicts and values and back; without them only bytes are broken.
    """

    def __init__(
        self, seed: int, load: Callable[[bytes], Any] | None = None, dump: Callable[[Any], bytes] | None = None
    ) -> None:
        self._random = random.Random(seed)
        self._load = load
        self._dump = dump

    @classmethod
    def of_json(cls, seed: int) -> Mutator:
        """Breaks JSON."""
        return cls(seed, msgspec.json.decode, msgspec.json.encode)

    @classmethod
    def of_msgpack(cls, seed: int) -> Mutator:
        """Breaks msgpack."""
        return cls(seed, msgspec.msgpack.decode, msgspec.msgpack.encode)

    def broken(self, data: bytes) -> bytes:
        """Returns ``data``, changed in one to three places."""
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            if self._load is not None and self._dump is not None and self._random.random() < 0.6:
                data = self._by_meaning(data)
            else:
                data = self._by_bytes(data)
        return data

    def _by_meaning(self, data: bytes) -> bytes:
        assert self._load is not None
        assert self._dump is not None
        try:
            whole = self._load(data)
            self._change(whole)
            return self._dump(whole)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, UnicodeError):
            return self._by_bytes(data)  # it was broken before, or cannot be written

    def _change(self, whole: Any) -> None:
        place = whole
        while isinstance(place, (list, dict)) and place:
            key = self._random.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if isinstance(inner, (list, dict)) and inner and self._random.random() < 0.5:
                place = inner
                continue
            self._change_at(place, key)
            return

    def _change_at(self, place: Any, key: Any) -> None:
        pick = self._random.random()
        if pick < 0.7:
            place[key] = self._random.choice(NASTY)
        elif pick < 0.85:
            del place[key]
        elif isinstance(place, dict):
            place[f"{key}{self._random.randrange(3)}"] = place.pop(key)
        else:
            place.insert(key, self._random.choice(NASTY))

    def _by_bytes(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data) + 1)
        pick = self._random.randrange(5)
        if pick == 0 and at < len(data):
            return data[:at] + bytes((data[at] ^ 1 << self._random.randrange(8),)) + data[at + 1 :]
        if pick == 1:
            return data[:at] + self._random.choice(SPLICES) + data[at:]
        if pick == 2:
            return data[:at]
        if pick == 3:
            return data[:at] + data[at + self._random.randrange(1, 9) :]
        return data[:at] + data[max(0, at - self._random.randrange(1, 20)) :]
