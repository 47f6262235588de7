"""engine result"""

from __future__ import annotations

import contextlib
import json
import time
from textwrap import indent
from typing import Any

import click
import msgspec

from engine.app.config.loader import Config
from engine.app.connect import results_for
from engine.cli import output
from engine.cli.options import DURATION, broker, client_settings, config_option, configuration, examples, json_option
from engine.contract.results import FAILURE, PENDING, REVOKED, Body, Record, ResultBackend
from engine.contract.transport import Found
from engine.errors import ConfigError, EngineError, TransportError


@click.command(
    "result", epilog=examples("engine result 5d1c... --wait --timeout 1m", "engine result 5d1c... --json | jq .result")
)
@config_option
@json_option
@click.argument("id")
@click.option("--wait", is_flag=True, help="Wait until the task has ended.")
@click.option("--timeout", type=DURATION, help="With --wait: how long (default: without end).")
def command(config: str | None, as_json: bool, id: str, wait: bool, timeout: float | None) -> int:
    """Show how a task ended, its state, or where its message is.

    Exit status: 1 when it ended as FAILURE or REVOKED, when nobody knows it, or when --timeout passed first.
    """
    return show(configuration(config), id, as_json, wait, timeout)


def show(config: Config, id: str, as_json: bool, wait: bool, timeout: float | None) -> int:
    """Prints what is known about a task and returns the exit status; ``engine send --wait`` ends here too."""
    backend = results_for(client_settings(config))
    if backend is None:
        raise ConfigError("no result backend: write url = ... under [results], or set ENGINE_RESULTS_URL")
    try:
        record = _waited(backend, id, timeout) if wait else backend.get([id]).get(id)
    finally:
        backend.close()
    if record is None:
        if wait:
            raise EngineError(f"{id} has not ended in time; `engine result {id}` looks again")
        return _not_recorded(str(config.path) if config.path else None, id, as_json)
    told = describe(record)
    if as_json:
        output.as_json(told)
    else:
        _print(told)
    return 1 if record.final and record.state in (FAILURE, REVOKED) else 0


def describe(record: Record) -> dict[str, Any]:
    """Returns a record as plain data. A result that is not JSON stays base64, with its serializer named."""
    try:
        body = msgspec.json.decode(record.body, type=Body)
    except msgspec.DecodeError as error:
        raise TransportError(f"the record of {record.id} cannot be read: {error}") from None
    told: dict[str, Any] = {"id": record.id, "state": record.state, "task": body.task, "date": body.date}
    if body.result is not msgspec.UNSET:
        told["result"] = json.loads(bytes(body.result))
    if body.serializer != "json":
        told["serializer"] = body.serializer
    if body.failure is not None:
        told["error"] = {"type": body.failure.type, "module": body.failure.module, "text": body.failure.text}
    told["traceback"] = body.traceback
    told["runtime"] = body.runtime
    told["retries"] = record.retries
    told["worker"] = body.worker
    return {key: value for key, value in told.items() if value not in (None, "") or key == "result"}


def _waited(backend: ResultBackend, id: str, timeout: float | None) -> Record | None:
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = 60.0 if deadline is None else deadline - time.monotonic()
        if (record := next(iter(backend.wait([id], max(0.0, left))), None)) is not None:
            return record
        if deadline is not None and time.monotonic() >= deadline:
            return None


def _not_recorded(config: str | None, id: str, as_json: bool) -> int:
    """Nothing is recorded: the broker may know where the message is."""
    found: object = None
    with contextlib.suppress(ConfigError), broker(config) as transport:
        found = transport.find(id)
    told: dict[str, Any] = {"id": id, "state": PENDING}
    if isinstance(found, Found):
        told |= {"place": found.place, "queue": found.queue, "task": output.header(found.body).get("task")}
        if found.due is not None:
            told["due"] = found.due
    if as_json:
        output.as_json(told)
    else:
        _print(told)
    if found is None:
        click.echo(f"engine: nobody knows {id}: no record, no message (or its result has expired)", err=True)
        return 1
    return 0


def _print(told: dict[str, Any]) -> None:
    for key, value in told.items():
        if key == "traceback":
            click.echo(f"traceback:\n{indent(str(value).rstrip(), '  ')}")
        else:
            click.echo(f"{key + ':':12}{_text(key, value)}")


def _text(key: str, value: Any) -> str:
    if key in ("date", "due"):
        return output.moment(value)
    if key == "state":
        return output.state(value)
    if key == "error":
        return f"{value['type']}: {value['text']}"
    if key == "runtime":
        return f"{value:.3f} s"
    return json.dumps(value, ensure_ascii=False) if key == "result" else str(value)
