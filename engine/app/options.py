"""The options of tasks and of calls: their names and types, and which place decides when several set one.

An execution option is taken from the call > ``[tasks."name"]`` > the decorator > ``[tasks]`` > ``Engine(...)`` > built
in. Time limits are chosen as a pair, at the most specific place that names either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypedDict, get_args

import msgspec
from msgspec import UNSET, UnsetType

from engine.app.absent import OPTIONS, instead
from engine.app.config.durations import rate, seconds
from engine.app.config.values import Value, convert, keys_of
from engine.app.nearest import did_you_mean
from engine.app.settings import Duration, TaskSection
from engine.contract.message import DEFAULT_QUEUE
from engine.errors import ConfigError

DurationLike: TypeAlias = float | str | timedelta
"""Seconds, or text such as "5m", or a timedelta."""
Exceptions: TypeAlias = tuple[type[BaseException], ...] | list[type[BaseException]]


class Defaults(TypedDict, total=False):
    """The options that ``Engine(...)`` takes as defaults for its tasks: those of ``[tasks]``."""

    acks_late: bool
    acks_on_failure_or_timeout: bool
    time_limit: DurationLike | None
    soft_time_limit: DurationLike | None
    memory_limit: int | str | None
    max_retries: int | None
    default_retry_delay: DurationLike
    rate_limit: float | str | None
    ignore_result: bool
    store_errors_even_if_ignored: bool
    track_started: bool
    queue: str
    priority: int | None
    expires: DurationLike | None
    serializer: str


class RetryArguments(TypedDict, total=False):
    """``retry_kwargs``: what an automatic retry uses."""

    max_retries: int | None
    countdown: DurationLike


class TaskOptions(Defaults, total=False):
    """The options of ``@app.task(...)`` and ``@shared_task(...)``, besides ``bind``."""

    name: str
    aliases: Sequence[str]
    base: type[Any] | None
    autoretry_for: Exceptions
    dont_autoretry_for: Exceptions
    retry_backoff: bool | float
    retry_backoff_max: DurationLike
    retry_jitter: bool
    retry_kwargs: RetryArguments
    throws: Exceptions | type[BaseException]
    typing: bool


class RetryPolicy(TypedDict, total=False):
    """How a *send* that fails is tried again: ``max_retries`` tries (3), the n-th pause being ``interval_start`` (0)
    and n times ``interval_step`` (0.2), at most ``interval_max`` (1 second). None stands for what is in brackets: a
    send never goes on for ever, as it does in Celery with ``max_retries`` of None."""

    max_retries: int | None
    interval_start: float | None
    interval_step: float | None
    interval_max: float | None


class CallOptions(TypedDict, total=False):
    """The options of ``apply_async`` and of signatures."""

    countdown: DurationLike | None
    eta: datetime | None
    expires: DurationLike | datetime | None
    retry: bool
    retry_policy: RetryPolicy | None
    queue: str | None
    priority: int | None
    task_id: str | None
    time_limit: DurationLike | None
    soft_time_limit: DurationLike | None
    max_retries: int | None
    ignore_result: bool | None
    serializer: str | None
    headers: Mapping[str, Any] | None
    link: Any
    link_error: Any
    shadow: str | None


SECTION_NAMES = frozenset(Defaults.__annotations__)
TASK_NAMES = frozenset(TaskOptions.__annotations__) | SECTION_NAMES | {"bind"}
CALL_NAMES = frozenset(CallOptions.__annotations__)


class Limits(msgspec.Struct, frozen=True):
    """The limits of one run: seconds, seconds and bytes; None: without."""

    time_limit: float | None = None
    soft_time_limit: float | None = None
    memory_limit: int | None = None


class Resolved(msgspec.Struct, frozen=True):
    """The options of one task as they hold now, from whichever place decides. Fields as in `TaskSection`."""

    acks_late: bool = False
    acks_on_failure_or_timeout: bool = True
    memory_limit: int | None = None
    max_retries: int | None = 3
    default_retry_delay: float = 180.0
    rate_limit: float | None = None
    """Starts per second."""
    ignore_result: bool = False
    store_errors_even_if_ignored: bool = False
    track_started: bool = False
    queue: str = DEFAULT_QUEUE
    priority: int | None = None
    expires: float | None = None
    serializer: str = "json"
    time_limit: float | None = None
    soft_time_limit: float | None = None


def built_in(name: str) -> Any:
    """Returns what holds for an option of ``[tasks]`` that nobody sets, as its setting's type."""
    value = getattr(Resolved(), name)
    is_duration = Duration in get_args(keys_of("tasks")[name])
    return Duration(value) if is_duration and value is not None else value


@dataclass(frozen=True)
class CodeOptions:
    """The options of a task that only its code can set."""

    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_backoff: int = 0
    """Factor in seconds; 0: no backoff."""
    retry_backoff_max: float = 600.0
    retry_jitter: bool = True
    retry_kwargs: RetryArguments = field(default_factory=RetryArguments)
    throws: tuple[type[BaseException], ...] = ()
    typing: bool = True


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises TypeError, with the nearest known name or what to write instead, for a name that is not known."""
    for name in given:
        if name not in known:
            raise TypeError(f'{where}: unknown option "{name}"{instead(name, OPTIONS) or did_you_mean(name, known)}')


def retries_of(value: Any) -> int | None:
    """Returns a number of retries, None being without end. Raises ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"max_retries {value!r} is neither None (for ever) nor a whole number of at least 0")
    return value


def countdown_of(value: Any) -> float:
    """Returns a countdown in seconds; a time in the past is now, as it is for ``eta``. Raises ValueError."""
    return 0.0 if isinstance(value, (int, float)) and value < 0 else seconds(value)


def section_of(given: Mapping[str, Any], where: str) -> TaskSection:
    """Returns those of the ``given`` options that ``[tasks]`` also has. ``where`` is told in errors: ConfigError for a
    value that does not fit, and for a soft limit that is not below the hard one."""
    section = TaskSection()
    for name in SECTION_NAMES & given.keys():
        value = Value(("tasks", name), given[name], f"{where}: {name}", "code")
        setattr(section, name, convert(value))
    _check_pair(section.time_limit, section.soft_time_limit, where)
    return section


def code_of(given: Mapping[str, Any], where: str) -> CodeOptions:
    """Returns those of the ``given`` options that only code has. Raises TypeError or ConfigError, naming ``where``."""
    known = CodeOptions.__dataclass_fields__
    found = {name: given[name] for name in known if name in given}
    for name in ("autoretry_for", "dont_autoretry_for", "throws"):
        if name in found:
            found[name] = _exceptions(found[name], f"{where}: {name}")
    if "retry_backoff" in found:
        found["retry_backoff"] = _backoff(found["retry_backoff"], where)
    if "retry_backoff_max" in found:
        found["retry_backoff_max"] = _seconds(found["retry_backoff_max"], f"{where}: retry_backoff_max")
    if "retry_kwargs" in found:
        _check_retry_arguments(found["retry_kwargs"], f"{where}: retry_kwargs")
    return CodeOptions(**found)


def resolve(places: Sequence[TaskSection | None]) -> Resolved:
    """Returns the options that hold, ``places`` being in order, the most specific first."""
    present = [place for place in places if place is not None]
    found: dict[str, Any] = {}
    for name in SECTION_NAMES - {"time_limit", "soft_time_limit"}:
        for place in present:
            value = getattr(place, name)
            if value is not UNSET:
                found[name] = value
                break
    if found.get("rate_limit") is not None:
        found["rate_limit"] = rate(found["rate_limit"])
    hard, soft = pair([(place.time_limit, place.soft_time_limit) for place in present])
    return Resolved(**found, time_limit=hard, soft_time_limit=soft)


def pair(
    places: Sequence[tuple[float | UnsetType | None, float | UnsetType | None]],
) -> tuple[float | None, float | None]:
    """Returns (hard, soft) limit, ``places`` being pairs in order, the most specific first.

    The most specific place that names either decides. What it leaves open is inherited from the next places, as long as
    the pair makes sense: a soft limit that is not below the hard one is dropped, and so is an inherited hard limit that
    is not above the soft one.
    """
    named = [place for place in places if place != (UNSET, UNSET)]
    if not named:
        return None, None
    hard, soft = named[0]
    for less_hard, less_soft in named[1:]:
        if hard is UNSET and less_hard is not UNSET:
            hard = less_hard if _fits(less_hard, soft) else None
        if soft is UNSET and less_soft is not UNSET:
            soft = less_soft if _fits(hard, less_soft) else None
    return (None if hard is UNSET else hard), (None if soft is UNSET else soft)


def check_call_limits(hard: float | None, soft: float | None) -> None:
    """Raises ValueError when a call sets a soft limit that is not below its hard one."""
    if not _fits(hard, soft):
        raise ValueError(f"soft_time_limit ({soft:g} s) must be below time_limit ({hard:g} s)")


def _fits(hard: float | UnsetType | None, soft: float | UnsetType | None) -> bool:
    if isinstance(hard, UnsetType) or isinstance(soft, UnsetType):
        return True
    return hard is None or soft is None or soft < hard


def _check_pair(hard: float | UnsetType | None, soft: float | UnsetType | None, where: str) -> None:
    if not _fits(hard, soft):
        raise ConfigError(f"{where}: soft_time_limit ({soft:g} s) must be below time_limit ({hard:g} s)")


def _check_retry_arguments(given: RetryArguments, where: str) -> None:
    """Now: the first failure, in a worker, would be late for an error in them."""
    check_names(given, RetryArguments.__annotations__, where)
    try:
        retries_of(given.get("max_retries"))
        if given.get("countdown") is not None:
            countdown_of(given["countdown"])
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _seconds(value: Any, where: str) -> float:
    try:
        return seconds(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _exceptions(value: Any, where: str) -> tuple[type[BaseException], ...]:
    found = (value,) if isinstance(value, type) else tuple(value)
    for kind in found:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"{where}: {kind!r} is not an exception class")
    return found


def _backoff(value: bool | float, where: str) -> int:
    if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ConfigError(f"{where}: retry_backoff {value!r} is neither True, False nor a number of seconds")
    return int(max(1, value)) if value else 0
