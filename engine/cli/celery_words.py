"""What fingers type that have known Celery's command for years, and what to type here."""

from __future__ import annotations

from collections.abc import Mapping

from engine.app.absent import PERIODIC

_OBSERVERS = "[plugins] enable names observers, which hear of every task"
_LOG = "the log goes to stderr: >>FILE 2>&1, or the log of systemd"
_FOREGROUND = "it stays in the foreground: systemd, or a container, keeps it running"
_ALWAYS = "leave it out"

VERBS: Mapping[str, str] = {
    "worker": "it is 'start' here",
    "multi": "it is 'start' here, once for each --name",
    "inspect": "it is 'status' here",
    "call": "it is 'send' here",
    "report": "it is 'check' here",
    "list": "it is 'check' here",
    "control": "it is 'revoke', 'pause', 'resume', 'stop' or 'reload' here",
    "events": _OBSERVERS,
    "flower": "'status --watch', 'queues' and 'dead list' show what goes on",
    "beat": PERIODIC,
    "shell": "run python, and import the app",
    "amqp": "'queues' and 'purge' do what a broker's own tools would",
}
"""By the verb of Celery's."""
OPTIONS: Mapping[str, str] = {
    "-Q": "it is -q or --queues here",
    "-X": "name the queues to fetch from: --queues",
    "--exclude-queues": "name the queues to fetch from: --queues",
    "--loglevel": "it is -l or --log-level here",
    "--hostname": "it is --name here",
    "-P": "leave it out: tasks run in processes, `async def` ones too",
    "--pool": "leave it out: tasks run in processes, `async def` ones too",
    "--autoscale": "there are as many children as --concurrency says; an idle one costs memory only",
    "--max-tasks-per-child": "write [worker] max_tasks_per_child",
    "--max-memory-per-child": "write [worker] max_memory_per_child",
    "--time-limit": "write [tasks] time_limit",
    "--soft-time-limit": "write [tasks] soft_time_limit",
    "--prefetch-multiplier": "leave it out: what no child begins within a second goes back to the broker",
    "-I": "write [engine] include",
    "--include": "write [engine] include",
    "-B": PERIODIC,
    "--beat": PERIODIC,
    "-s": PERIODIC,
    "--schedule": PERIODIC,
    "--scheduler": PERIODIC,
    "-E": _OBSERVERS,
    "--task-events": _OBSERVERS,
    "-O": _ALWAYS,
    "--without-gossip": _ALWAYS,
    "--without-mingle": _ALWAYS,
    "--without-heartbeat": _ALWAYS,
    "-S": "leave it out: revocations are kept at the broker",
    "--statedb": "leave it out: revocations are kept at the broker",
    "-f": _LOG,
    "--logfile": _LOG,
    "-D": _FOREGROUND,
    "--detach": _FOREGROUND,
    "--pidfile": "`engine status` tells the pid",
    "--purge": "`engine purge QUEUE` does that",
    "--workdir": "run it in that folder",
    "-b": "write [broker] url, or set ENGINE_BROKER_URL",
    "--broker": "write [broker] url, or set ENGINE_BROKER_URL",
    "--result-backend": "write [results] url, or set ENGINE_RESULTS_URL",
}
"""By the option of Celery's."""
