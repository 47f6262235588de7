"""Retries: how many, when, and the message that runs next."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from engine.app import clock, codecs
from engine.app.calls import fields_of, moment
from engine.app.options import CALL_NAMES, CodeOptions, DurationLike, Resolved, check_names, countdown_of
from engine.app.parameters import Parameters
from engine.app.sending import encode_arguments
from engine.app.signature import links_of
from engine.contract.message import Message

OPTIONS = CALL_NAMES - {"task_id", "serializer", "retry", "retry_policy", "countdown", "eta", "max_retries"}
"""The options of a call that ``retry()`` may change."""
_LONGEST = 60
"""Doublings after which a backoff is beyond any maximum."""


class Plan(msgspec.Struct, frozen=True):
    """A retry that was asked for: it and the end of this delivery will be one settlement."""

    message: Message
    """What runs next: same id, one retry more, ``eta`` set."""
    error: BaseException | None
    """Why."""
    raised: bool = True
    """Was `Retry` raised (or only returned: ``throw=False``)?"""


def limit_of(message: Message, resolved: Resolved, given: int | UnsetType | None = UNSET) -> int | None:
    """Returns how many retries are allowed, None being without end: as given now, by the call, or by the task."""
    for limit in (given, message.max_retries):
        if limit is not UNSET:
            return limit
    return resolved.max_retries


def is_exhausted(message: Message, limit: int | None) -> bool:
    """Was this the last run that is allowed?"""
    return limit is not None and message.retries >= limit


def backoff(code: CodeOptions, retries: int) -> float:
    """Returns the pause, in seconds, before retry number ``retries`` + 1: exponential, at most ``retry_backoff_max``,
    and with ``retry_jitter`` a random whole number of seconds up to that."""
    pause = min(code.retry_backoff_max, code.retry_backoff * 2 ** min(retries, _LONGEST))
    return float(random.randint(0, int(pause))) if code.retry_jitter else float(pause)


def due(
    message: Message,
    resolved: Resolved,
    code: CodeOptions,
    countdown: DurationLike | None = None,
    eta: datetime | None = None,
) -> float:
    """Returns when the next run is due, in seconds since the epoch: countdown > eta > backoff > default delay."""
    now = clock.now()
    if countdown is not None:
        return now + countdown_of(countdown)
    if eta is not None:
        return max(now, moment(eta, now))
    if code.retry_backoff:
        return now + backoff(code, message.retries)
    return now + resolved.default_retry_delay


def next_message(message: Message, at: float, changes: Mapping[str, Any] | None = None) -> Message:
    """Returns the message of the next run: the same but for one retry more, its time, and ``changes`` (fields)."""
    return msgspec.structs.replace(message, retries=message.retries + 1, eta=at, **(changes or {}))


def changes_of(
    message: Message,
    args: Iterable[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    parameters: Parameters,
) -> dict[str, Any]:
    """Returns the fields of the next message that ``retry(args, kwargs, **options)`` changes. Raises TypeError for an
    unknown option, SerializationError for an argument that cannot be carried."""
    check_names(options, OPTIONS, f"{message.task}.retry")
    fields = fields_of(options, clock.now())
    for name in ("link", "link_error"):
        if name in options:
            fields[name] = links_of(options[name])
    codec = codecs.find(message.serializer)
    if args is not None:
        fields["args"] = encode_arguments(codec, list(args), {}, message.task, parameters)[0]
    if kwargs is not None:
        fields["kwargs"] = encode_arguments(codec, [], kwargs, message.task, parameters)[1]
    return fields
