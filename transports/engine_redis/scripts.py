"""The Lua scripts: each is one step that happens whole. The texts are in the folder ``lua``."""

from __future__ import annotations

from pathlib import Path

from engine_redis.digest import sha1_hex

_FOLDER = Path(__file__).parent / "lua"


class Script:
    """A script and the digest that Redis knows it by."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, *before: str) -> None:
        self.name = name
        parts = [(_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", *before, name)]
        self.text = "\n".join(parts)
        self.sha = sha1_hex(self.text.encode())


PUBLISH = Script("publish")
FETCH = Script("fetch")
SETTLE = Script("settle", "records")
RENEW = Script("renew")
LEAVE = Script("leave")
TAKEOVER = Script("takeover")
REVOKE = Script("revoke")
FIND = Script("find")
COUNTS = Script("counts")
SCHEDULED = Script("scheduled")
DEAD = Script("dead")
REPLAY = Script("replay")
DROP = Script("drop")
PURGE = Script("purge")
PAUSE = Script("pause")
ORDER = Script("order")
NUDGE = Script("nudge")
RING = Script("ring")
STORE = Script("store", "records")
AWAIT = Script("await")
PROBE = Script("probe")
