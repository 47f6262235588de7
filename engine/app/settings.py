"""Every setting, declared once: ``Engine(...)`` arguments, TOML, environment and command line are views of these.

A field's docstring is its documentation (`engine.app.config.reference` lists them); `engine.app.config.loader` reads
files and says where a value came from.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from engine.contract.message import Priority

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$")]


class Duration(float):
    """Seconds. In TOML, environment and calls: a number of seconds, or text such as "90s", "4m30s", "1d"."""


class Size(int):
    """Bytes. In TOML, environment and calls: a number of bytes, or text such as "512MB", "16MiB"."""


class EngineSection(msgspec.Struct, forbid_unknown_fields=True):
    """``[engine]``"""

    name: Name = "engine"
    """Name of the engine on this host: of its control socket, in process titles and logs."""
    app: str | None = None
    """Where the app is: "package.module" or "package.module:variable"."""
    include: list[str] = []
    """Modules with tasks, imported before the worker starts."""
    runtime_dir: str | None = None
    """Folder of control socket and lock file. Not set: $XDG_RUNTIME_DIR/engine, else a private folder of the user's."""


class BrokerSection(msgspec.Struct):
    """``[broker]``"""

    url: str | None = None
    """Such as "sqlite:///engine.db" or "memory://"; the scheme names the transport."""
    options: dict[str, Any] = {}
    """The other keys of the section: they belong to the transport."""
    origins: dict[str, str] = {}
    """Where the keys of the section were written, for errors that the transport finds in them."""


class ResultsSection(msgspec.Struct):
    """``[results]``"""

    url: str | None = None
    """As for the broker. Not set: no results are kept."""
    expires: Duration = Duration(86400)
    """How long a result is kept."""
    options: dict[str, Any] = {}
    """The other keys of the section: they belong to the result backend."""
    origins: dict[str, str] = {}
    """Where the keys of the section were written, for errors that the result backend finds in them."""


class WorkerSection(msgspec.Struct, forbid_unknown_fields=True):
    """``[worker]``"""

    concurrency: Count = 0
    """How many children run tasks. 0: one per CPU."""
    queues: list[str] = msgspec.field(default_factory=lambda: ["default"])
    """Queues to fetch from: priority first across all, then in turn."""
    prefetch: Positive | None = None
    """Messages claimed ahead. Not set: what the children finish in about 100 ms."""
    prefetch_max: Positive = 1000
    """The most that are claimed ahead."""
    max_tasks_per_child: Count = 0
    """Tasks after which a child is replaced (up to 10% fewer, drawn for each child). 0: never."""
    max_memory_per_child: Size | None = None
    """Growth above its size at the start after which a child is replaced, at the end of its task."""
    max_crashes: Positive = 3
    """Runs of one task that may end by the death of their process; then it is dead-lettered."""
    shutdown_timeout: Duration = Duration(30)
    """How long running tasks may go on at a shutdown before they are interrupted."""
    dead_after: Duration = Duration(30)
    """Seconds without a heartbeat after which a worker on another host counts as dead."""
    preload: bool = True
    """Import the app once and fork children from it; false: each child imports it."""
    max_message: Size = Size(16 * 2**20)
    """Largest message."""
    max_result: Size = Size(16 * 2**20)
    """Largest result."""
    accept: list[str] = msgspec.field(default_factory=lambda: ["json", "msgpack"])
    """Serializers whose messages are run. "pickle" lets whoever can write to the broker run any code."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    json_logs: bool = False
    """Log lines as JSON objects."""


class TaskSection(msgspec.Struct, forbid_unknown_fields=True):
    """``[tasks]`` (every task) and ``[tasks."name"]`` (one task). What is not set comes from a less specific place."""

    acks_late: bool | UnsetType = UNSET
    """Acknowledge after the task ended (it runs again if its process dies) instead of just before it starts."""
    acks_on_failure_or_timeout: bool | UnsetType = UNSET
    """false: a late-acked task that failed is dead-lettered."""
    time_limit: Duration | UnsetType | None = UNSET
    """Hard limit: the process that runs the task is killed."""
    soft_time_limit: Duration | UnsetType | None = UNSET
    """Soft limit: `SoftTimeLimitExceeded` is raised in the task."""
    memory_limit: Size | UnsetType | None = UNSET
    """Growth above the child's size after its fork at which it is killed."""
    max_retries: Count | UnsetType | None = UNSET
    """Retries after the first run; "none": without end."""
    default_retry_delay: Duration | UnsetType = UNSET
    """Delay of a retry that names none."""
    rate_limit: str | float | UnsetType | None = UNSET
    """Such as "100/m"; per worker."""
    ignore_result: bool | UnsetType = UNSET
    """Keep no result."""
    store_errors_even_if_ignored: bool | UnsetType = UNSET
    """Keep failures of tasks whose result is ignored."""
    track_started: bool | UnsetType = UNSET
    """Write the state STARTED."""
    queue: str | UnsetType = UNSET
    """Queue it is sent to."""
    priority: Priority | UnsetType | None = UNSET
    """0..9, 9 first."""
    expires: Duration | UnsetType | None = UNSET
    """A task that did not start this long after the call is REVOKED."""
    serializer: str | UnsetType = UNSET
    """Codec of arguments and result."""


class PluginsSection(msgspec.Struct, forbid_unknown_fields=True):
    """``[plugins]``"""

    enable: list[str] = []
    """Installed plugins (entry-point group ``engine.plugins``) to run."""
    load: list[str] = []
    """Paths of Python files to load as plugins."""


class Settings(msgspec.Struct):
    """All sections."""

    engine: EngineSection = msgspec.field(default_factory=EngineSection)
    broker: BrokerSection = msgspec.field(default_factory=BrokerSection)
    results: ResultsSection = msgspec.field(default_factory=ResultsSection)
    worker: WorkerSection = msgspec.field(default_factory=WorkerSection)
    tasks: TaskSection = msgspec.field(default_factory=TaskSection)
    task: dict[str, TaskSection] = {}
    """The ``[tasks."name"]`` tables."""
    routes: dict[str, str] = {}
    """Patterns of task names ("reports.*") and the queues they go to; the first that fits wins."""
    plugins: PluginsSection = msgspec.field(default_factory=PluginsSection)
