"""What `engine plugin check` looks at in a plugin: its hooks, what they give, and the broker behind it."""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from engine.app.config.urls import redact, scheme_of
from engine.app.nearest import did_you_mean
from engine.app.plugins import GROUPS, PLUGINS, RESULTS, TRANSPORTS, open_results, open_transport
from engine.app.plugins.entries import listed
from engine.app.plugins.modules import from_entry_point, from_file, implementations
from engine.app.settings import BrokerSection, PluginsSection, ResultsSection
from engine.cli.checks import Finding, native_threads, open_sockets
from engine.cli.plugin_classes import codec_findings, consumer_findings, results_findings, transport_findings
from engine.contract import ResultBackend, Transport, Worker
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError, EngineError, PluginError

HOOKS_OF = {TRANSPORTS: ("engine_transport",), RESULTS: ("engine_results",)}
"""What the engine asks a module for that is registered in a group; in the others it is any hook."""
_SCHEME = re.compile(r"[a-z][a-z0-9.-]*")


@dataclass(frozen=True)
class Subject:
    """The plugin that is looked over."""

    name: str
    module: ModuleType
    groups: tuple[str, ...]
    """The entry-point groups that it is registered in under its name; none for a file."""

    @property
    def load(self) -> list[str]:
        """What ``[plugins] load`` is for it."""
        return [] if self.groups else [self.name]


def findings(what: str, url: str | None, options: Mapping[str, str]) -> Iterator[Finding]:
    """Looks over a plugin: the name of an installed one, or a file. With ``url``, opens and closes it too. Says nothing
    twice."""
    told = set()
    for finding in _findings(what, url, options):
        if finding not in told:
            told.add(finding)
            yield finding


def _findings(what: str, url: str | None, options: Mapping[str, str]) -> Iterator[Finding]:
    try:
        subject = find(what)
    except PluginError as error:
        yield Finding("error", "plugin", str(error))
        return
    yield Finding("ok", "plugin", f"{subject.module.__name__} ({subject.module.__file__})")
    hooks = implementations(subject.module)
    yield from _hooks(subject, hooks)
    try:
        if "engine_transport" in hooks:
            yield from _answers(subject, hooks["engine_transport"], TRANSPORTS, url, transport_findings)
        if "engine_results" in hooks:
            yield from _answers(subject, hooks["engine_results"], RESULTS, url, results_findings)
        if "engine_codecs" in hooks:
            for codec in hooks["engine_codecs"]():
                yield from codec_findings(codec)
    except Exception as error:  # noqa: BLE001 - a plugin's fault is a finding
        yield Finding("error", "hook", _told(error))
        return
    if url is not None:
        yield from _opened(subject, hooks, url, dict(options))


def find(what: str) -> Subject:
    """Imports a plugin by its file or its name, as the engine does. Raises PluginError."""
    if what.endswith(".py") or os.sep in what:
        return Subject(what, from_file(what), ())
    modules = {group: module for group in GROUPS if (module := from_entry_point(group, what)) is not None}
    if not modules:
        known = {one.name for group in GROUPS for one in listed(group)}
        hint = did_you_mean(what, known) or ": `engine plugins` lists those that are; a file is named with its .py"
        raise PluginError(f"no plugin {what!r} is installed{hint}")
    return Subject(what, next(iter(modules.values())), tuple(modules))


def _hooks(subject: Subject, hooks: Mapping[str, Callable[..., Any]]) -> Iterator[Finding]:
    """Which hooks there are, and whether the engine looks for them where the plugin is registered."""
    for name, hook in hooks.items():
        yield Finding("ok", "hook", f"{name}({', '.join(inspect.signature(hook).parameters)})")
    for group in subject.groups:
        for name in HOOKS_OF.get(group, ()):
            if name not in hooks:
                yield Finding("error", "hook", f"{subject.name} is registered in {group}, and has no hook {name}")
    if not subject.groups:
        return
    for name in hooks:
        group = next((group for group, asked in HOOKS_OF.items() if name in asked), PLUGINS)
        if group not in subject.groups:
            text = f"{name} is never called: register the module in the entry-point group {group} too"
            yield Finding("warning", "hook", text)


def _answers(
    subject: Subject,
    hook: Callable[..., Any],
    group: str,
    url: str | None,
    look: Callable[[Any], Iterator[Finding]],
) -> Iterator[Finding]:
    """What a hook gives for the schemes that it is there for."""
    schemes = [subject.name] if group in subject.groups else _schemes(hook, url)
    answers = {scheme: hook(scheme=scheme) if inspect.signature(hook).parameters else hook() for scheme in schemes}
    given = {scheme: cls for scheme, cls in answers.items() if cls is not None}
    if not given:
        asked = f"returns None for {', '.join(schemes)}" if schemes else "was not asked, as no scheme is known"
        yield Finding("error", "hook", f"{hook.__name__} {asked}: say which one it is for with --url")
    for cls in dict.fromkeys(given.values()):
        names = ", ".join(f"{scheme}://" for scheme, answer in given.items() if answer is cls)
        yield Finding("ok", "urls", f"{names} is {getattr(cls, '__name__', cls)}")
        yield from look(cls)


def _schemes(hook: Callable[..., Any], url: str | None) -> list[str]:
    """The schemes to ask a file's hook for. Nothing lists them, but they stand in its code: those are tried."""
    if url is not None:
        return [scheme_of(url)]
    code = getattr(hook, "__code__", None)
    words = [word for word in _strings(code.co_consts) if _SCHEME.fullmatch(word)] if code is not None else []
    return list(dict.fromkeys(words))


def _strings(constants: Any) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, (tuple, frozenset)):
            yield from _strings(constant)
        elif isinstance(constant, CodeType):
            yield from _strings(constant.co_consts)


def _opened(
    subject: Subject, hooks: Mapping[str, Callable[..., Any]], url: str, options: dict[str, Any]
) -> Iterator[Finding]:
    """Opens the URL with what the plugin gives, and closes it: as the engine does, so what is wrong is found there."""
    if subject.groups and scheme_of(url) != subject.name:
        yield Finding("error", "url", f"{redact(url)} is not for {subject.name}: it begins with {scheme_of(url)!r}")
        return
    plugins = PluginsSection(load=subject.load)
    if "engine_transport" in hooks:
        yield from _tried(lambda: open_transport(BrokerSection(url, options), plugins), url)
    if "engine_results" in hooks:
        yield from _tried(lambda: open_results(ResultsSection(url, options=options), plugins), url)


def _tried(make: Callable[[], Transport | ResultBackend | None], url: str) -> Iterator[Finding]:
    threads, sockets = native_threads(), open_sockets()
    try:
        made = make()
        assert made is not None, "there is a URL"
        if native_threads() > threads or open_sockets() > sockets:
            text = f"{type(made).__name__} connects or starts a thread in __init__, which may run before a fork"
            yield Finding("error", "open", f"{text}: wait for the first use")
        with closing(made):
            if isinstance(made, Transport):
                yield from consumer_findings(made.consume(["default"], Worker("check", "here", "", "")))
            notes = made.check()
        made.close()
    except (BrokerUnavailable, BrokerFull) as error:
        yield Finding("later", "open", str(error))
    except (ConfigError, EngineError) as error:
        for line in str(error).splitlines():
            yield Finding("error", "open", line)
    except Exception as error:  # noqa: BLE001 - a plugin's fault is a finding
        yield Finding("error", "open", f"{redact(url)}: {_told(error)}")
    else:
        yield Finding("ok", "open", f"{redact(url)} was opened, looked at and closed, twice")
        for note in notes:
            yield Finding("note", "open", str(note))


def _told(error: Exception) -> str:
    """What an exception says, with its place: in a plugin that is being written, that is what one wants to know."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}{f': {error}' if str(error) else ''} ({frame.filename}:{frame.lineno})"
