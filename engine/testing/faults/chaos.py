"""Kills the processes of an engine, and its broker, at random while it works; then asks what became of the tasks."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.app.config.loader import load
from engine.app.connect import results_for, transport_for
from engine.contract.results import SUCCESS, Record, ResultBackend
from engine.errors import BrokerUnavailable, ConfigError
from engine.testing.faults.brokers import Broker, broker
from engine.testing.faults.feeder import Feeder
from engine.testing.faults.judgement import Kill, Verdict, blame, recovery
from engine.testing.faults.ledger import Ledger
from engine.testing.faults.points import VARIABLE
from engine.testing.harness import EngineProcess, toml, wait_for

WEIGHTS = {"child": 70, "dispatcher": 20, "template": 5, "tree": 10, "reload": 10, "restart": 10}
"""How often each is picked. The last two are no kills: SIGHUP, and a drain (SIGTERM) with a new start."""
KINDS = (*WEIGHTS, "broker")
STUCK = 45.0
"""Seconds without any progress after which what is not done counts as lost."""
ASKED_AT_ONCE = 500
YOUNG = 1.0
"""Seconds in which a service may not be ready yet, on a busy machine."""
YOUNG_KILLED = 0.25
"""Part of such services that are killed all the same."""
LATER = 75
"""Exit status of an engine that could not start for now."""


@dataclass(frozen=True)
class Plan:
    """One run. ``kills`` names what is killed: of the processes one every ``every`` seconds, picked by `WEIGHTS`; the
    broker every ``broker_every`` seconds. It takes ``seconds``, or longer: until ``tasks`` were sent."""

    transport: str
    seconds: float = 60.0
    seed: int = 0
    kills: Collection[str] = ("child",)
    tasks: int = 0
    children: int = 8
    lasts: float = 0.02
    every: float = 0.3
    broker_every: float = 2.0
    broker_down: float = 0.0
    """Seconds before a broker that was killed is started again."""
    ahead: int = 400
    points: str = ""
    """As ENGINE_TEST_POINTS, of the first engine; one started after it has none."""


class Chaos:
    """An engine in a folder, its broker, and what is done to them. Raises ConfigError for what cannot be killed."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        if unknown := set(plan.kills) - set(KINDS):
            raise ConfigError(f"cannot kill {', '.join(sorted(unknown))}: there are {', '.join(KINDS)}")
        self.plan = plan
        self.folder = folder
        self.broker: Broker = broker(plan.transport, folder)
        if "broker" in plan.kills and not self.broker.restarts:
            raise ConfigError(f"{plan.transport} has no server to kill")
        if plan.transport == "memory" and {"dispatcher", "tree", "restart"} & set(plan.kills):
            raise ConfigError("memory lives and dies with the dispatcher: kill child or template, or reload")
        self.ledger = Ledger(folder)
        self.kills: list[Kill] = []
        self.torn: list[set[str]] = []
        self._random = random.Random(plan.seed)
        self._kinds = [kind for kind in WEIGHTS if kind in plan.kills]
        self._final: dict[str, Record] = {}
        self._up: float | None = None
        """When the engine that was started last said that it runs (monotonic); None: not yet."""
        self._served = 0.0
        """When the broker that was killed last served again (monotonic)."""

    def run(self) -> Verdict:
        """Does it all; returns the account."""
        verdict = Verdict()
        self._results: ResultBackend | None = None
        try:
            self.broker.start()
            self.engine = self._engine()
            self.engine.start()
            self._up = time.monotonic()
            settings = load(str(self.engine.config), env={}).settings
            self._results = results_for(settings)
            lasts = json.dumps([self.plan.lasts])
            feeder = Feeder(settings, args=lasts, ahead=self.plan.ahead, waiting=self._waiting)
            feeder.start()
            try:
                self._rage(feeder)
            finally:
                feeder.stop()
            self._await_ends(feeder.ids)
            self._judge(verdict, feeder)
        except AssertionError as error:
            verdict.fault = str(error).strip()[-2000:]
        finally:
            self._close()
        return verdict

    # Kills.

    def _rage(self, feeder: Feeder) -> None:
        plan, begun = self.plan, time.monotonic()
        next_kill, next_broker = begun + plan.every, begun + plan.broker_every
        while (now := time.monotonic()) < begun + plan.seconds or len(feeder.ids) < plan.tasks:
            self._check_engine()
            assert feeder.failure is None, f"sending failed: {feeder.failure!r}"
            if self._kinds and now >= next_kill:
                next_kill = now + plan.every
                self._kill(self._pick())
            elif "broker" in plan.kills and now >= next_broker:
                self._kill_broker()
                next_broker = time.monotonic() + plan.broker_every
            time.sleep(0.005)

    def _pick(self) -> str:
        return self._random.choices(self._kinds, [WEIGHTS[kind] for kind in self._kinds])[0]

    def _kill(self, kind: str) -> None:
        if kind == "tree":
            self._kill_tree()
            return
        if kind in ("reload", "restart"):
            self._deploy(kind)
            return
        status = self.engine.try_ask("status")
        if status is None:
            return
        rows = status["slots"] if kind == "child" else [row for row in status["processes"] if row["role"] == kind]
        pids = [row["pid"] for row in rows if row["pid"] and not self._spares(row)]
        if pids and self._kill_process(pid := self._random.choice(pids)):
            self.kills.append(Kill(kind, time.monotonic(), pid))

    def _spares(self, row: Mapping[str, Any]) -> bool:
        """Most services that were just born are left alone: ten in a row that do not get ready are given up."""
        return row.get("uptime", YOUNG) < YOUNG and self._random.random() > YOUNG_KILLED

    def _kill_process(self, pid: int) -> bool:
        """Kills this process if it is one of the engine's: its pid may be somebody else's by now."""
        with suppress(OSError):
            fd = os.pidfd_open(pid)
            try:
                if os.readlink(f"/proc/{pid}/cwd") == str(self.folder):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    return True
            finally:
                os.close(fd)
        return False

    def _kill_tree(self) -> None:
        at = time.monotonic()
        with suppress(ProcessLookupError):
            self.engine.signal(signal.SIGKILL)
        self.engine.kill_tree()
        self.kills.append(Kill("tree", at))
        self.ledger.read()
        finals = self._finals(self.ledger.by_id)
        self.torn.append({id for id in self.ledger.by_id if id not in finals})
        self.engine.env.pop(VARIABLE, None)
        self._start_again()

    def _deploy(self, kind: str) -> None:
        """As an operator does: nothing that ran or waited may notice."""
        if not self.engine.try_ask("ping"):
            return
        self.kills.append(Kill(kind, time.monotonic()))
        if kind == "reload":
            self.engine.signal(signal.SIGHUP)
            return
        status = self.engine.stop(60)
        assert status == 0, f"the engine drained with status {status}: {self.engine.log[-1000:]}"
        self._start_again()

    def _kill_broker(self) -> None:
        self.kills.append(Kill("broker", time.monotonic()))
        self.broker.kill()
        time.sleep(self.plan.broker_down)
        self.broker.start()
        self._served = time.monotonic()

    # What became of them.

    def _waiting(self, sent: int) -> int:
        return sent - len(self.ledger.read().ends)

    def _finals(self, ids: Collection[str]) -> dict[str, Record]:
        """Returns the final records. They are asked for until the backend answers."""
        assert self._results is not None
        missing = [id for id in ids if id not in self._final]
        for begin in range(0, len(missing), ASKED_AT_ONCE):
            part = missing[begin : begin + ASKED_AT_ONCE]
            records = self._ask_for(part)
            self._final.update({id: record for id, record in records.items() if record.final})
        return self._final

    def _ask_for(self, ids: Sequence[str]) -> Mapping[str, Record]:
        assert self._results is not None
        deadline = time.monotonic() + 60
        while True:
            try:
                return self._results.get(ids)
            except BrokerUnavailable:
                assert time.monotonic() < deadline, "the result backend does not answer"
                time.sleep(0.05)

    def _await_ends(self, ids: Sequence[str]) -> None:
        progress, moved = -1, time.monotonic()
        while len(self._finals(ids)) < len(ids) and time.monotonic() - moved < STUCK:
            self._check_engine()
            now = len(self._final) + len(self.ledger.read().starts)
            if now != progress:
                progress, moved = now, time.monotonic()
            time.sleep(0.02)
        self._finished = time.monotonic()

    def _check_engine(self) -> None:
        process = self.engine.process
        assert process is not None, "run() started it"
        status = process.poll()  # once: it may end between two looks
        if status == -signal.SIGKILL and self.plan.points:
            self._kill_tree()  # it killed its supervisor itself
            return
        if status == LATER and "broker" in self.plan.kills:
            self._start_again()  # its broker was killed while it started: "may pass later"
            return
        assert status is None, f"the engine exited with {status}: {self.engine.log[-1000:]}"
        if self._up is None and (self.engine.try_ask("status") or {}).get("state") == "running":
            self._up = time.monotonic()

    def _start_again(self) -> None:
        self._up = None
        self.engine.start(wait=False)

    def _judge(self, verdict: Verdict, feeder: Feeder) -> None:
        verdict.fault = "" if feeder.failure is None else f"sending failed: {feeder.failure!r}"
        last = max([kill.at for kill in self.kills], default=self._finished)
        verdict.rest = self._finished - last
        verdict.rest_up = self._finished - max(last, self._served, self._up or last)
        verdict.tasks = len(feeder.ids)
        for kill in self.kills:
            verdict.kills[kill.kind] += 1
        verdict.lost = [id for id in feeder.ids if id not in self._final or self._final[id].state != SUCCESS]
        if not verdict.lost:
            with suppress(AssertionError):
                wait_for(lambda: self._left() == (0, 0), "the queue to be empty", 10)
        verdict.dead, verdict.left = self._left()
        self.ledger.read()
        blame(self.ledger, self.engine.log, self.torn, feeder.ids, verdict)
        verdict.recovery = recovery(self.ledger, self.kills)

    def _left(self) -> tuple[int, int]:
        """Returns how many dead letters and other messages the broker has."""
        transport = transport_for(load(str(self.engine.config), env={}).settings)
        try:
            counts = transport.counts().values()
            return sum(one.dead for one in counts), sum(one.ready + one.delayed + one.claimed for one in counts)
        finally:
            transport.close()

    # Ends.

    def _engine(self) -> EngineProcess:
        worker = 'log_level = "INFO"'
        config = toml(
            "engine.testing.faults.tasks", broker=self.broker.url, concurrency=self.plan.children, worker=worker
        ).replace(f'[results]\nurl = "{self.broker.url}"', f'[results]\nurl = "{self.broker.results}"')
        return EngineProcess(self.folder, config, env={VARIABLE: self.plan.points} if self.plan.points else {})

    def _close(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
        if self._results is not None:
            self._results.close()
        self.broker.close()
