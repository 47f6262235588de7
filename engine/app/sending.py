"""From a call to the message that carries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.app import clock, codecs
from engine.app.calls import fields_of, new_id, origin
from engine.app.client import Client, policy_of
from engine.app.context import Request, current
from engine.app.parameters import Parameters
from engine.app.signature import links_of
from engine.contract.codec import Codec
from engine.contract.message import VERSION, Envelope, Message
from engine.errors import SerializationError

_NO_ARGS = {"json": msgspec.Raw(b"[]")}
_NO_KWARGS = {"json": msgspec.Raw(b"{}")}


@dataclass(frozen=True)
class Route:
    """Where and how the messages of one task are sent, when the call does not say otherwise."""

    task: str
    queue: str
    priority: int | None
    expires: float | None
    codec: Codec
    ignore_result: bool
    max_message: int


def build(
    route: Route,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    parameters: Parameters | None = None,
) -> Message:
    """Returns the message of a call. ``options`` are those of ``apply_async``, checked by name, without links.

    Raises SerializationError naming the argument that cannot be carried, TypeError or ValueError for an option.
    """
    now = clock.now()
    fields = fields_of(options, now) if options else {}
    codec = codecs.find(fields["serializer"]) if "serializer" in fields else route.codec
    raw_args, raw_kwargs = encode_arguments(codec, args, kwargs, route.task, parameters)
    expires = None if route.expires is None else now + route.expires
    message = Message(
        version=VERSION,
        id=fields.pop("id", None) or new_id(),
        task=route.task,
        sent=now,
        args=raw_args,
        kwargs=raw_kwargs,
        queue=route.queue,
        priority=route.priority,
        expires=expires,
        serializer=codec.name,
        origin=origin(),
    )
    if (request := running()) is not None:
        message.root = request.root_id
        message.parent = request.id
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def message_of(
    route: Route, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], task: Any = None
) -> Message:
    """Returns the message of a call, with its links. As `build`; TypeError for a link that is not a signature."""
    message = build(route, args, kwargs, options, None if task is None else task.parameters)
    if options:
        message.link = links_of(options.get("link"))
        message.link_error = links_of(options.get("link_error"))
    return message


def publish(client: Client, messages: Sequence[tuple[Message, Route]], options: Mapping[str, Any]) -> None:
    """Sends messages, as the options ``retry`` and ``retry_policy`` say. Raises BrokerUnavailable or BrokerFull."""
    policy = policy_of(options.get("retry_policy")) if options.get("retry", True) else None
    client.publish([envelope_of(message, route) for message, route in messages], policy)
    if (request := running()) is not None:
        request.children.extend(message.id for message, _ in messages)


def running() -> Request | None:
    """Returns the innermost run of a message that is under way here, tasks that were called as functions aside."""
    request = current.get()
    while request is not None and request.run is None:
        request = request.outer
    return request


def encode_arguments(
    codec: Codec, args: Sequence[Any], kwargs: Mapping[str, Any], task: str, parameters: Parameters | None
) -> tuple[msgspec.Raw, msgspec.Raw]:
    """Returns arguments as they go into a message. Raises SerializationError naming the one that cannot be carried."""
    try:
        raw_args = None if args else _NO_ARGS.get(codec.name)
        raw_kwargs = None if kwargs else _NO_KWARGS.get(codec.name)
        return raw_args or _raw(codec, args), raw_kwargs or _raw(codec, kwargs)
    except SerializationError as error:
        raise _named(codec, args, kwargs, task, parameters) or error from None


def envelope_of(message: Message, route: Route) -> Envelope:
    """Returns the message in its envelope. Raises SerializationError when it is larger than ``max_message``, or when a
    header cannot be carried."""
    try:
        envelope = message.envelope()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SerializationError(f"{message.task}: headers and links travel as JSON: {error}") from None
    if len(envelope.body) > route.max_message:
        raise SerializationError(
            f"{message.task}: the message has {len(envelope.body):,} bytes, and max_message allows "
            f"{route.max_message:,}: pass a path, a key or an id instead of the data"
        )
    return envelope


def _raw(codec: Codec, value: object) -> msgspec.Raw:
    return msgspec.Raw(codecs.encode(codec, value))


def _named(
    codec: Codec, args: Sequence[Any], kwargs: Mapping[str, Any], task: str, parameters: Parameters | None
) -> SerializationError | None:
    for position, value in enumerate(args):
        name = parameters.name_of(position) if parameters else "*"
        shown = f"argument {position + 1}" if name == "*" else f"argument {name!r}"
        if error := _refused(codec, value, f"{task}: {shown}"):
            return error
    for key, value in kwargs.items():
        if error := _refused(codec, value, f"{task}: argument {key!r}"):
            return error
    return None


def _refused(codec: Codec, value: Any, where: str) -> SerializationError | None:
    try:
        codecs.encode(codec, value)
    except SerializationError as error:
        kind = type(value)
        found = codecs.culprit(error.__cause__) or kind
        inside = "" if found is kind else f" (a {found.__qualname__} inside of a {kind.__qualname__})"
        return SerializationError(
            f"{where}, of type {kind.__module__}.{kind.__qualname__}: {error}{inside}. Pass an id, or plain data "
            "such as numbers, text, lists and dicts, and load the object in the task"
        )
    return None
