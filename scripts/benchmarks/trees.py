"""Trees of processes: what they use, read from /proc, and their end."""

from __future__ import annotations

import contextlib
import time

import psutil


class Tree:
    """A process and all that came from it."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def processes(self) -> list[psutil.Process]:
        """Returns those that live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._root, *self._root.children(recursive=True)]
        return []

    def of_role(self, role: str) -> list[psutil.Process]:
        """Returns those of one role: see `cpu`."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if self._role(process) == role:
                    found.append(process)
        return found

    def cpu(self) -> dict[str, float]:
        """Returns CPU seconds, user and system, by role; those of ended and reaped processes count for their parent."""
        spent: dict[str, float] = {}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                role = self._role(process)
                spent[role] = spent.get(role, 0.0) + sum(process.cpu_times()[:4])
        return spent

    def pss(self) -> dict[str, float]:
        """Returns proportional memory in MiB by role."""
        sizes: dict[str, float] = {}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                role = self._role(process)
                sizes[role] = sizes.get(role, 0.0) + process.memory_full_info().pss / 2**20
        return sizes

    def settle(self, quiet: float = 0.2, longest: float = 10.0) -> dict[str, float]:
        """Waits until it does next to nothing; returns its CPU seconds by role up to then."""
        deadline = time.monotonic() + longest
        now = self.cpu()
        while time.monotonic() < deadline:
            before = now
            time.sleep(quiet)
            now = self.cpu()
            if sum(now.values()) - sum(before.values()) <= 0.2 * quiet:
                return before
        return now

    def kill(self) -> None:
        """Kills it, from the root on, so that nobody replaces what dies; then waits until all is gone."""
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 10)

    def _role(self, process: psutil.Process) -> str:
        """An engine's processes say their role in their titles; of others, the root is the parent."""
        title = process.cmdline()
        if title and title[0].startswith("engine: "):
            return title[0].split()[1]
        return "parent" if process.pid == self._root.pid else "child"


def used(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Returns what was used in between, by role."""
    return {role: max(0.0, spent - before.get(role, 0.0)) for role, spent in after.items()}


def own_cpu() -> float:
    """Returns CPU seconds of this process."""
    return time.process_time()
