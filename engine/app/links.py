"""What follows from a task's end: the messages of its ``link`` and ``link_error`` signatures.

A signature in a message is a JSON object: ``task``, ``args``, ``kwargs``, ``options`` (as `Message` names them, with
``id`` fixed when the parent was sent, so that a second run of the parent publishes the same message) and ``immutable``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from engine.app import clock, codecs
from engine.contract.codec import Codec
from engine.contract.message import DEFAULT_QUEUE, MAX_ID, VERSION, Envelope, Message, Priority
from engine.errors import ConfigError, SerializationError

log = logging.getLogger("engine.app")


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """One signature, as a message carries it.

    ``delay`` and ``expires_after`` are seconds from the parent's end. Where the call gave a moment, ``eta`` or
    ``expires`` holds it instead, in seconds since the epoch.
    """

    task: str
    id: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    immutable: bool = False
    queue: str = DEFAULT_QUEUE
    priority: Priority | None = None
    delay: float | None = None
    eta: float | None = None
    expires_after: float | None = None
    expires: float | None = None
    serializer: str = "json"
    max_retries: int | msgspec.UnsetType | None = msgspec.UNSET
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool | None = None
    shadow: str | None = None
    headers: dict[str, Any] | None = None
    link: list[dict[str, Any]] | None = None
    link_error: list[dict[str, Any]] | None = None


def after_success(message: Message, value: Any) -> list[Envelope]:
    """Returns what follows from a success: each linked task gets ``value`` as its first argument, unless it is
    immutable. Raises SerializationError when a link's serializer cannot carry it."""
    return [_envelope(message, link, _args(link, value), _codec_of(link)) for link in _links(message.link)]


def after_failure(message: Message) -> list[Envelope]:
    """Returns what follows from a failure: each ``link_error`` task gets the failed task's id as its first argument,
    unless it is immutable. Never raises: the dispatcher calls it for messages that anybody may have written."""
    return [_after_failure(message, link) for link in _links(message.link_error)]


def _after_failure(message: Message, link: Link) -> Envelope:
    args = _args(link, message.id)
    try:
        return _envelope(message, link, args, _codec_of(link))
    except SerializationError as error:
        # JSON brought these arguments here, so it carries them on.
        log.warning("the link %s of %s is sent as json: %s", link.task, message.id, error)
        return _envelope(message, link, args, codecs.JSON)


def _links(found: Sequence[dict[str, Any]] | None) -> list[Link]:
    links: list[Link] = []
    for data in found or ():
        try:
            link = msgspec.convert(data, Link)
        except msgspec.ValidationError as error:
            log.error("a link was left out, as it cannot be read: %s", error)
            continue
        if 1 <= len(link.id.encode()) <= MAX_ID:
            links.append(link)
        else:
            log.error("the link %s was left out: its id must have 1 to %d bytes", link.task, MAX_ID)
    return links


def _args(link: Link, first: Any) -> list[Any]:
    return link.args if link.immutable else [first, *link.args]


def _codec_of(link: Link) -> Codec:
    """Returns the link's codec; JSON where it is not known: the dispatcher has none of those that plugins bring."""
    try:
        return codecs.find(link.serializer)
    except ConfigError as error:
        log.warning("the link %s is sent as json: %s", link.task, error)
        return codecs.JSON


def _envelope(parent: Message, link: Link, args: list[Any], codec: Codec) -> Envelope:
    now = clock.now()
    return Message(
        version=VERSION,
        id=link.id,
        task=link.task,
        sent=now,
        args=msgspec.Raw(codecs.encode(codec, args)),
        kwargs=msgspec.Raw(codecs.encode(codec, link.kwargs)),
        queue=link.queue,
        priority=link.priority,
        eta=link.eta if link.delay is None else now + link.delay,
        expires=link.expires if link.expires_after is None else now + link.expires_after,
        max_retries=link.max_retries,
        time_limit=link.time_limit,
        soft_time_limit=link.soft_time_limit,
        ignore_result=link.ignore_result,
        serializer=codec.name,
        origin=parent.origin,
        root=parent.root or parent.id,
        parent=parent.id,
        shadow=link.shadow,
        headers=link.headers,
        link=link.link,
        link_error=link.link_error,
    ).envelope()
