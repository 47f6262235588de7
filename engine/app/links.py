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
from engine.contract.message import VERSION, Envelope, Message

log = logging.getLogger("engine.app")


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """One signature, as a message carries it. ``delay`` and ``expires`` are seconds from the parent's end."""

    task: str
    id: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    immutable: bool = False
    queue: str = "default"
    priority: int | None = None
    delay: float | None = None
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
    return [_envelope(message, link, (value,)) for link in _links(message.link)]


def after_failure(message: Message) -> list[Envelope]:
    """Returns what follows from a failure: each ``link_error`` task gets the failed task's id as its first argument,
    unless it is immutable. Never raises a serializer's error: an id is text."""
    return [_envelope(message, link, (message.id,)) for link in _links(message.link_error)]


def _links(found: Sequence[dict[str, Any]] | None) -> list[Link]:
    links: list[Link] = []
    for data in found or ():
        try:
            links.append(msgspec.convert(data, Link))
        except msgspec.ValidationError as error:
            log.error("a link was left out, as it cannot be read: %s", error)
    return links


def _envelope(parent: Message, link: Link, first: tuple[Any, ...]) -> Envelope:
    codec = codecs.find(link.serializer)
    now = clock.now()
    args = link.args if link.immutable else [*first, *link.args]
    return Message(
        version=VERSION,
        id=link.id,
        task=link.task,
        sent=now,
        args=msgspec.Raw(codecs.encode(codec, args)),
        kwargs=msgspec.Raw(codecs.encode(codec, link.kwargs)),
        queue=link.queue,
        priority=link.priority,
        eta=None if link.delay is None else now + link.delay,
        expires=None if link.expires is None else now + link.expires,
        max_retries=link.max_retries,
        time_limit=link.time_limit,
        soft_time_limit=link.soft_time_limit,
        ignore_result=link.ignore_result,
        serializer=link.serializer,
        origin=parent.origin,
        root=parent.root or parent.id,
        parent=parent.id,
        shadow=link.shadow,
        headers=link.headers,
        link=link.link,
        link_error=link.link_error,
    ).envelope()
