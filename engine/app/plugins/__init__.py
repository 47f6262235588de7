"""Finds the plugins that a configuration asks for, and opens transports and result backends.

A URL's scheme is looked up in the files of ``[plugins] load`` and then among the installed entry points; only the one
that is asked for is imported, so that a client library that is missing hurts nobody else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pluggy

from engine.app.config.urls import check_url, redact, scheme_of
from engine.app.config.values import from_text
from engine.app.nearest import did_you_mean
from engine.app.plugins.entries import Installed, listed
from engine.app.plugins.modules import DISTRIBUTION, EXTRAS, from_entry_point, from_file, manager
from engine.app.settings import BrokerSection, PluginsSection, ResultsSection
from engine.contract.codec import Codec
from engine.contract.results import ResultBackend
from engine.contract.transport import Capabilities, Transport
from engine.errors import ConfigError, PluginError

TRANSPORTS = "engine.transports"
RESULTS = "engine.results"
PLUGINS = "engine.plugins"
GROUPS = (TRANSPORTS, RESULTS, PLUGINS)
"""The entry-point groups."""


def open_transport(broker: BrokerSection, plugins: PluginsSection | None = None) -> Transport:
    """Returns the transport of ``[broker]``; it has not connected. Raises ConfigError for a missing URL, unknown scheme
    or unknown key, PluginError for a plugin that cannot be used."""
    if broker.url is None:
        raise ConfigError(
            'no broker: write url = "sqlite:///engine.db" under [broker], or set ENGINE_BROKER_URL or ENGINE_CONFIG'
        )
    with _placed(broker):
        cls = transport_class(broker.url, plugins)
    options = _options("broker", broker, cls.options)
    with _placed(broker):
        return cls(broker.url, options=options)


def open_results(results: ResultsSection, plugins: PluginsSection | None = None) -> ResultBackend | None:
    """Returns the result backend of ``[results]``, which has not connected, or None when there is no URL. Raises as
    `open_transport`."""
    if results.url is None:
        return None
    with _placed(results):
        cls = results_class(results.url, plugins)
    options = _options("results", results, cls.options)
    with _placed(results):
        return cls(results.url, expires=results.expires, options=options)


def transport_class(url: str, plugins: PluginsSection | None = None) -> type[Transport]:
    """Returns the class for a broker's URL. Raises PluginError."""
    cls = _find(TRANSPORTS, "engine_transport", url, plugins)
    checked: type[Transport] = _checked(cls, Transport, url)
    if not isinstance(getattr(checked, "capabilities", None), Capabilities):
        raise PluginError(f"{_named(checked)} has no `capabilities`: set it to Capabilities(...) in the class")
    return checked


def results_class(url: str, plugins: PluginsSection | None = None) -> type[ResultBackend]:
    """Returns the class for a result backend's URL. Raises PluginError."""
    checked: type[ResultBackend] = _checked(_find(RESULTS, "engine_results", url, plugins), ResultBackend, url)
    return checked


def load_observers(plugins: PluginsSection) -> pluggy.PluginManager:
    """Returns a pluggy manager with the plugins of ``[plugins] enable`` and ``load``. Raises PluginError for one that
    is not installed, claimed twice or wrong."""
    modules = {name: from_file(name) for name in plugins.load}
    for name in plugins.enable:
        module = from_entry_point(PLUGINS, name)
        if module is None:
            known = {one.name for one in listed(PLUGINS)}
            hint = did_you_mean(name, known) or f" (installed: {', '.join(sorted(known)) or 'none'})"
            raise PluginError(f"[plugins] enable: no plugin {name!r} is installed{hint}")
        modules[name] = module
    return manager(modules)


def codecs(plugins: PluginsSection) -> list[Codec]:
    """Returns the codecs that enabled and loaded plugins bring. Raises PluginError for one that is not a `Codec`, and
    for two of one name."""
    found: dict[str, Codec] = {}
    for given in load_observers(plugins).hook.engine_codecs():
        for codec in given:
            if not isinstance(codec, Codec):
                raise PluginError(f"engine_codecs() gave {codec!r}, which is no instance of engine.contract.Codec")
            if codec.name in found:
                raise PluginError(f"two plugins bring a codec {codec.name!r}: enable one of them")
            found[codec.name] = codec
    return list(found.values())


def installed() -> list[Installed]:
    """Returns all plugins that are installed, without importing any."""
    return [one for group in GROUPS for one in listed(group)]


@contextmanager
def _placed(table: BrokerSection | ResultsSection) -> Iterator[None]:
    """Says in an error about the URL where that was written."""
    try:
        yield
    except ConfigError as error:
        if origin := table.origins.get("url"):
            raise type(error)(f"{origin}: {error}") from error
        raise


def _find(group: str, hook: str, url: str, plugins: PluginsSection | None) -> Any:
    """Returns what a plugin gave for the URL's scheme."""
    try:
        scheme = scheme_of(check_url(url))
    except ValueError as error:
        raise PluginError(str(error)) from None
    given = {file: _ask(hook, scheme, file) for file in (plugins.load if plugins is not None else ())}
    claims = [file for file, cls in given.items() if cls is not None]
    if len(claims) > 1:
        raise PluginError(f"[plugins] load: {' and '.join(claims)} both answer for {scheme}: load one of them")
    if claims:
        return given[claims[0]]
    module = from_entry_point(group, scheme)
    if module is None:
        raise PluginError(f"{redact(url)}: {_unknown_scheme(group, scheme)}")
    cls = getattr(manager({scheme: module}).hook, hook)(scheme=scheme)
    if cls is None:
        raise PluginError(f"{module.__name__} is installed for {scheme}, but its {hook}({scheme!r}) returns None")
    return cls


def _ask(hook: str, scheme: str, file: str) -> Any:
    return getattr(manager({file: from_file(file)}).hook, hook)(scheme=scheme)


def _unknown_scheme(group: str, scheme: str) -> str:
    known = sorted({one.name for one in listed(group)})
    if not known:
        return f"no plugins are installed: pip install {DISTRIBUTION}"
    what = "transport" if group == TRANSPORTS else "result backend"
    if hint := did_you_mean(scheme, known):
        return f"no {what} for {scheme!r} is installed{hint}"
    extra = f": pip install '{DISTRIBUTION}[{EXTRAS[scheme]}]'" if scheme in EXTRAS else ""
    return f"no {what} for {scheme!r} is installed (there are {', '.join(known)}){extra}"


def _checked(cls: Any, contract: type, url: str) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, contract)):
        raise PluginError(f"{redact(url)}: the plugin gave {cls!r}, which is no subclass of {_named(contract)}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise PluginError(f"{_named(cls)} does not implement {missing}")
    return cls


def _options(section: str, table: BrokerSection | ResultsSection, known: Mapping[str, type]) -> dict[str, Any]:
    """Returns a section's further keys, converted to the types that the plugin declares."""
    options, problems = {}, []
    for key, raw in table.options.items():
        origin = table.origins.get(key, "")
        where = f"{origin}: [{section}] {key}" if origin else f"[{section}] {key}"
        if key not in known:
            from engine.app.old_settings import INSTEAD  # late: only a mistake is looked up there

            hint = f": {INSTEAD[key]}" if key in INSTEAD else did_you_mean(key, [*known, "url"])
            hint = hint or f" ({scheme_of(table.url or '')} takes: {_listed(known)})"
            problems.append(f"{where}: unknown key{hint}")
            continue
        try:
            options[key] = from_text(raw, known[key])
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return options


def _listed(known: Mapping[str, type]) -> str:
    return ", ".join(known) or "no further keys"


def _named(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
