"""What became of the tasks: none lost, and none started again without a reason that is on record."""

from __future__ import annotations

import bisect
import itertools
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from engine.testing.faults.ledger import Ledger

_LOST = re.compile(
    r"task lost in child \d+ \(pid (?P<pid>\d+)\): .* after it had started; it runs again \(crash (?P<crash>\d+)\)"
    r" \[\S+ (?P<id>\S+)\]"
)
RECOVERY_WINDOW = 4.0
"""Seconds after a kill in which the longest pause between two starts is looked for."""


@dataclass(frozen=True)
class Kill:
    """One kill: when (monotonic seconds), of what, and which process ("" and 0 where there are many)."""

    kind: str
    at: float
    pid: int = 0


@dataclass
class Verdict:
    """The account of a run."""

    tasks: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    """Sent, and without SUCCESS in the end."""
    dead: int = 0
    left: int = 0
    """Messages still at the broker."""
    extra: int = 0
    """Starts beyond the first of each task."""
    logged: int = 0
    """Of these: told by the log, as lost after it had started."""
    torn: int = 0
    """Of these: of tasks that ran, or whose end was not settled, when the whole tree was killed."""
    unaccounted: list[str] = field(default_factory=list)
    recovery: dict[str, list[float]] = field(default_factory=dict)
    """Seconds, by kind of kill."""
    rest: float = 0.0
    """Seconds from the last kill to the last end."""
    rest_up: float = 0.0
    """The same from when engine and broker were up again, where that came later: without the start of the engine, which
    is Python's, and that of the server."""
    fault: str = ""
    """What else went wrong: a process that ended, a send that failed."""

    @property
    def ok(self) -> bool:
        """Was nothing lost, and everything accounted for?"""
        return not (self.lost or self.dead or self.left or self.unaccounted or self.fault)

    def line(self) -> str:
        """Returns the one line that is published."""
        kills = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kills.items())) or "none"
        parts = [
            f"kills: {kills}",
            f"tasks {self.tasks}, lost {len(self.lost)}, dead letters {self.dead}, left {self.left}",
            f"extra starts {self.extra}: {self.logged} in the log, {self.torn} from killed trees, "
            f"{len(self.unaccounted)} unaccounted",
            f"recovery p50/p99 {_recovery(self.recovery)}",
            f"all done {self.rest:.1f} s after the last kill, {self.rest_up:.1f} s after engine and broker were up",
        ]
        if self.fault:
            parts.append(f"FAULT {self.fault}")
        if self.lost or self.unaccounted:
            parts.append(f"see {', '.join([*self.lost[:5], *self.unaccounted[:5]])}")
        return "; ".join(parts)


def blame(ledger: Ledger, log: str, torn: Sequence[Collection[str]], ids: Collection[str], verdict: Verdict) -> None:
    """Accounts for every extra start: exactly by the log, and where a tree was killed (``torn``: the tasks that were
    started and had no final record, for each of these kills) by at most one more each."""
    told = lost_runs(log)
    allowed = Counter(id for unsettled in torn for id in unsettled)
    for id in ids:
        pids = {start.pid for start in ledger.by_id.get(id, ())}
        again = max(0, len(ledger.by_id.get(id, ())) - 1)
        # A run that died between the board and its first line is in the log, and not in the ledger.
        logged = len(told.get(id, frozenset()) & pids)
        verdict.extra += again
        verdict.logged += min(again, logged)
        verdict.torn += max(0, min(again - logged, allowed[id]))
        if again > logged + allowed[id] or (again < logged and not allowed[id]):
            verdict.unaccounted.append(f"{id} ({again} extra starts, {logged} in the log, {allowed[id]} allowed)")


def lost_runs(log: str) -> Mapping[str, frozenset[int]]:
    """Returns, by task, the pids of the children that died after they had started it, as the log tells."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for match in _LOST.finditer(log):
        found[match["id"]].add(int(match["pid"]))
    return {id: frozenset(pids) for id, pids in found.items()}


def recovery(ledger: Ledger, kills: Sequence[Kill]) -> dict[str, list[float]]:
    """Returns how long each kill was felt, by kind. Of a child that ran a task: until that task started again; of
    anything else: the longest pause between two starts in the seconds after it."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    times = sorted(start.at for start in ledger.starts)
    for kill in kills:
        felt = _restarted(ledger, kill) if kill.kind == "child" else _pause(times, kill.at)
        if felt is not None:
            found[kill.kind].append(felt)
    return dict(found)


def _restarted(ledger: Ledger, kill: Kill) -> float | None:
    victim = ledger.open.get(kill.pid)
    if victim is None:
        return None
    return next((start.at - kill.at for start in ledger.by_id[victim.id] if start.at > kill.at), None)


def _pause(times: Sequence[float], at: float) -> float | None:
    """Returns the longest time without a start that began in the window; ``times`` are sorted."""
    first = bisect.bisect(times, at)
    behind = bisect.bisect(times, at + RECOVERY_WINDOW)
    window = [at, *times[first : behind + 1]]
    return max((later - earlier for earlier, later in itertools.pairwise(window)), default=None)


def _recovery(found: Mapping[str, Sequence[float]]) -> str:
    parts = []
    for kind, values in sorted(found.items()):
        ms = sorted(value * 1000 for value in values)
        parts.append(f"{kind} {statistics.median(ms):.0f}/{ms[int(len(ms) * 0.99)]:.0f} ms")
    return ", ".join(parts) or "-"
