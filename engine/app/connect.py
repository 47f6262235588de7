"""How a client - a web application, the command line - gets at the broker and the result backend of its settings.

Most are opened by their URL. One that lives inside a running engine (``memory://``) is reached through the control
socket of the engine that has the name of ``[engine] name``.
"""

from __future__ import annotations

from engine.app.config.folders import socket_path
from engine.app.plugins import open_results, open_transport, results_class, transport_class
from engine.app.relay import connect_results, connect_transport
from engine.app.settings import Settings
from engine.contract.results import ResultBackend
from engine.contract.transport import Transport


def transport_for(settings: Settings) -> Transport:
    """Returns the broker. Raises ConfigError when none is configured, and BrokerUnavailable when it lives inside an
    engine and none of that name is up."""
    url = settings.broker.url
    if url is not None and transport_class(url, settings.plugins).capabilities.in_process:
        return connect_transport(socket_path(settings))
    return open_transport(settings.broker, settings.plugins)


def results_for(settings: Settings) -> ResultBackend | None:
    """Returns the result backend, or None when none is configured. Raises as `transport_for`."""
    url = settings.results.url
    if url is not None and results_class(url, settings.plugins).in_process:
        return connect_results(socket_path(settings))
    return open_results(settings.results, settings.plugins)
