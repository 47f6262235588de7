"""What `engine check` looks at: each check yields findings, and a user's mistake is one, never an exception."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.app import misfits
from engine.app.codecs import register
from engine.app.config.folders import socket_path
from engine.app.config.urls import readable
from engine.app.discovery import folders_of_others, load_app
from engine.app.leftovers import leftovers
from engine.app.plugins import codecs, load_observers, open_results, open_transport
from engine.app.settings import Settings
from engine.cli import output
from engine.cli import system as calls
from engine.contract.results import ResultBackend
from engine.contract.transport import Capabilities, Transport
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError, EngineError

if TYPE_CHECKING:
    from engine.app.app import Engine


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: str
    """``ok``, ``note``, ``warning``, ``later`` (may pass: the broker is down) or ``error``."""
    about: str
    text: str


def system(settings: Settings) -> Iterator[Finding]:
    """Operating system, open files, the folder of the control socket."""
    missing = list(calls.missing())
    for line in missing:
        yield Finding("error", "system", line)
    if not missing:
        yield Finding("ok", "system", f"{', '.join(calls.CALLS)} work")
    if warning := calls.too_few_files(settings.worker.concurrency or len(os.sched_getaffinity(0))):
        yield Finding("warning", "system", warning)
    try:
        yield Finding("ok", "socket", str(socket_path(settings)))
    except ConfigError as error:
        yield Finding("error", "socket", str(error))


def plugins(settings: Settings) -> Iterator[Finding]:
    """Observers and codecs: ``[plugins]``, and ``[worker] accept``."""
    try:
        named = list(load_observers(settings.plugins).list_name_plugin())
        register(codecs(settings.plugins))
    except ConfigError as error:
        yield Finding("error", "plugins", str(error))
        return
    if named:
        yield Finding("ok", "plugins", ", ".join(name for name, _ in named))
    yield from (Finding("error", "plugins", text) for text in misfits.unknown_in_accept(settings))
    if "pickle" in settings.worker.accept:
        yield Finding("warning", "plugins", "[worker] accept has pickle: whoever can write to the broker runs any code")


def broker(settings: Settings, connect: bool) -> Iterator[Finding]:
    """The transport: its plugin, its options, its server."""
    try:
        transport = open_transport(settings.broker, settings.plugins)
    except ConfigError as error:
        yield from _each("error", "broker", error)
        return
    with closing(transport):
        url = readable(settings.broker.url or "")
        yield from _tried("broker", url, transport.capabilities.in_process, connect, transport.check)
        yield from _limits_of(transport)


def results(settings: Settings, connect: bool) -> Iterator[Finding]:
    """The result backend: its plugin, its options, its server."""
    try:
        backend: ResultBackend | None = open_results(settings.results, settings.plugins)
    except ConfigError as error:
        yield from _each("error", "results", error)
        return
    if backend is None:
        yield Finding("note", "results", "no [results] url: results are not kept, and AsyncResult.get() raises")
        return
    with closing(backend):
        url = readable(settings.results.url or "")
        yield from _tried("results", url, backend.in_process, connect, backend.check)


def app(settings: Settings) -> tuple[Engine | None, list[Finding]]:
    """The app: does it import, which tasks has it, what would a fork of it break, do its settings fit. Returns it, if
    it can be imported, and the findings."""
    threads, sockets = set(threading.enumerate()), open_sockets()
    native = native_threads()
    try:
        engine = load_app(settings)
    except ConfigError as error:
        return None, [Finding("error", "app", str(error))]
    names = sorted(engine.tasks)
    text = f"{settings.engine.app}: {output.counted(len(names), 'task')}: {', '.join(names) or 'none'}"
    hazards = _hazards(set(threading.enumerate()) - threads, native_threads() - native, open_sockets() - sockets)
    left = [Finding("warning", "app", text) for text in leftovers(folders_of_others())]
    return engine, [Finding("ok", "app", text), *left, *hazards, *_misfits(settings, engine)]


def _tried(about: str, url: str, in_process: bool, connect: bool, check: Callable[[], object]) -> Iterator[Finding]:
    if in_process:
        yield Finding("ok", about, f"{url} lives inside the engine: `engine start` opens it")
        return
    if not connect:
        yield Finding("ok", about, f"{url} (not tried)")
        return
    try:
        notes = check()
    except (BrokerUnavailable, BrokerFull) as error:
        yield Finding("later", about, str(error))
    except EngineError as error:
        yield from _each("error", about, error)
    except Exception as error:  # noqa: BLE001 - a plugin's fault is a finding too
        yield Finding("error", about, f"{url}: {type(error).__name__}: {error}")
    else:
        yield Finding("ok", about, url)
        for note in notes if isinstance(notes, (list, tuple)) else ():
            yield Finding("note", about, str(note))


def _limits_of(transport: Transport) -> Iterator[Finding]:
    """What the broker can not do, in terms of what a user would miss."""
    can: Capabilities = transport.capabilities
    lacks = {
        "messages are gone when the engine ends": can.in_process or can.durable,
        "countdown, eta and retries with a delay do not wait": can.delays,
        "priorities are ignored": can.prioritises,
        "a send that is repeated after a lost answer may be published twice": can.publishes_once,
        "revoke() works for tasks that are running only": can.revokes,
        "delayed messages cannot be listed": can.lists_scheduled,
    }
    for text, is_there in lacks.items():
        if not is_there:
            yield Finding("note", "broker", text)
    if can.in_process:
        yield Finding("note", "broker", "messages are gone when the engine ends; only this host reaches it")
    elif not can.other_hosts:
        yield Finding("note", "broker", "serves this host only")


def _hazards(threads: set[threading.Thread], native: int, sockets: int) -> Iterator[Finding]:
    """What does not survive a fork."""
    for thread in threads:
        text = (
            f"the import starts a thread ({thread.name}), which children do not have: start it in @app.on_child_start"
        )
        yield Finding("warning", "app", text)
    if native > len(threads):
        more = native - len(threads)
        yield Finding(
            "warning",
            "app",
            f"the import starts {output.counted(more, 'thread')} outside of Python, which children do not have: "
            "if tasks hang in that library, write [worker] preload = false, or keep it to one thread "
            "(OMP_NUM_THREADS=1)",
        )
    if sockets > 0:
        opened = output.counted(sockets, "socket")
        text = f"the import opens {opened}, which all children would share: connect in @app.on_child_start"
        yield Finding("warning", "app", text)


def _misfits(settings: Settings, engine: Engine) -> Iterator[Finding]:
    """Settings about tasks that do not exist, and tasks that this worker would not run."""
    yield from (Finding("warning", "tasks", text) for text in misfits.misspelt(settings, engine))
    yield from (Finding("warning", "results", text) for text in misfits.unheard(settings, engine))
    yield from (Finding("warning", "routes", text) for text in misfits.routed_nowhere(settings, engine))
    early = [info.name for info in engine.task_infos() if not info.acks_late]
    if early:
        text = f"acks_late is off for {', '.join(sorted(early))}: they are lost when their process dies"
        yield Finding("note", "tasks", text)
    unknown = [Finding("error", "tasks", text) for text in misfits.unknown_serializers(settings, engine)]
    yield from unknown
    if not unknown:  # how a task is sent can be told
        yield from (Finding("error", "tasks", text) for text in misfits.unaccepted(settings, engine))
        yield from (Finding("warning", "tasks", text) for text in misfits.fetched_elsewhere(settings, engine))


def _each(level: str, about: str, error: EngineError) -> Iterator[Finding]:
    for line in str(error).splitlines():
        yield Finding(level, about, line)


def native_threads() -> int:
    """How many threads this process has, those outside of Python included."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def open_sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    try:
        for fd in os.listdir("/proc/self/fd"):
            try:
                count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
            except OSError:
                # The descriptor of the listing itself is gone by now.
                continue
    except OSError:
        return 0
    return count
