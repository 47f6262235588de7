"""What a task's function takes: do arguments fit its signature, and which come back as annotated."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property, partial
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from engine.app.codecs import from_plain

Converter: TypeAlias = Callable[[Any], Any]

_PLAIN = frozenset({Any, object, None, type(None), bool, int, float, str, list, dict})
_RICH = frozenset({datetime, date, time, timedelta, Decimal, UUID, bytes, bytearray, tuple, set, frozenset})
_CONTAINERS = frozenset({list, dict, collections.abc.Sequence, collections.abc.Mapping, collections.abc.Iterable})
_RICH_CONTAINERS = frozenset({tuple, set, frozenset, collections.abc.Set})
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class Parameters:
    """The parameters of one function. Read from it at the first use, so that annotations may name what is defined later
    in its module."""

    def __init__(self, function: Callable[..., Any], skip_first: bool) -> None:
        self._function = function
        self._skip = 1 if skip_first else 0

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises TypeError, in Python's words, when the function cannot be called so."""
        shape = self._shape
        if shape is not None and not shape.fits(len(args), kwargs):
            shape.signature.bind(*args, **kwargs)
            # CPython 3.13.0 lets a keyword of **kwargs stand in for a positional-only parameter of its name.
            raise TypeError(f"missing a positional-only argument of {shape.signature}")

    def convert(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Turns decoded arguments, in place, into the types they are annotated with. Raises ValueError that names the
        argument."""
        converters = self._converters
        if not converters:
            return
        for position, value in enumerate(args):
            name = self.name_of(position)
            if converter := converters.get(name):
                args[position] = _converted(name, converter, value)
        for name, value in kwargs.items():
            if converter := converters.get(name) or converters.get("**"):
                kwargs[name] = _converted(name, converter, value)

    def convert_result(self, value: Any) -> Any:
        """Returns a decoded result as the type that the function says it returns; as it came if it does not fit."""
        converter = self._result
        if converter is None:
            return value
        try:
            return converter(value)
        except ValueError:
            return value

    def name_of(self, position: int) -> str:
        """Returns the name of the positional parameter, ``*`` being that of ``*args`` and of unknown ones."""
        names = self._names
        return names[position] if position < len(names) else "*"

    @cached_property
    def _shape(self) -> _Shape | None:
        # The arguments reach the outermost wrapper, so that is what they must fit.
        signature = _signature(self._function, follow_wrapped=False)
        return None if signature is None else _Shape(_without_first(signature, self._skip))

    @cached_property
    def _named(self) -> inspect.Signature | None:
        signature = _signature(self._function, follow_wrapped=True)
        return None if signature is None else _without_first(signature, self._skip)

    @cached_property
    def _names(self) -> list[str]:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        found = self._named.parameters.values() if self._named else ()
        return [parameter.name for parameter in found if parameter.kind in kinds]

    @cached_property
    def _converters(self) -> dict[str, Converter]:
        found: dict[str, Converter] = {}
        for parameter in self._named.parameters.values() if self._named else ():
            if converter := converter_of(_evaluated(parameter.annotation, self._function)):
                found[_STARS.get(parameter.kind, parameter.name)] = converter
        return found

    @cached_property
    def _result(self) -> Converter | None:
        return converter_of(_evaluated(self._named.return_annotation, self._function)) if self._named else None


class _Shape:
    """A signature, prepared for a quick look whether arguments fit it."""

    def __init__(self, signature: inspect.Signature) -> None:
        self.signature = signature
        parameters = list(signature.parameters.values())
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        only = [p for p in positional if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._most = sys.maxsize if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
        self._least = sum(p.default is p.empty for p in positional)
        self._only = len(only)
        named = [(i, p) for i, p in enumerate(positional) if p.kind is p.POSITIONAL_OR_KEYWORD]
        named += [(sys.maxsize, p) for p in keyword]
        self._places = {p.name: place for place, p in named}
        self._required = [(place, p.name) for place, p in named if p.default is p.empty]
        self._needs_keywords = any(p.default is p.empty for p in keyword)

    def fits(self, count: int, kwargs: Mapping[str, Any]) -> bool:
        """Can the function be called with ``count`` positional arguments and these keywords?"""
        if not kwargs:
            return self._least <= count <= self._most and not self._needs_keywords
        if not self._only <= count <= self._most:
            return False
        return all(self._takes(name, count) for name in kwargs) and all(
            place < count or name in kwargs for place, name in self._required
        )

    def _takes(self, name: str, count: int) -> bool:
        place = self._places.get(name)
        return self._takes_any if place is None else place >= count


def converter_of(annotation: Any) -> Converter | None:
    """Returns what turns plain data into the annotated type; None when it comes as it is, or nobody knows how."""
    try:
        if not (_is_known(annotation) and _is_rich(annotation)):
            return None
        msgspec.json.Decoder(annotation)
    except TypeError:
        # Such as a union of two types that are both text in JSON, or what is no type at all.
        return None
    return partial(msgspec.convert, type=annotation, str_keys=True, dec_hook=from_plain)


def _is_known(annotation: Any) -> bool:
    """Can msgspec (or pydantic) make every type in this annotation?"""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return True
    if origin is typing.Annotated:
        return _is_known(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType) or origin in _CONTAINERS | _RICH_CONTAINERS:
        return all(part is Ellipsis or _is_known(part) for part in typing.get_args(annotation))
    return annotation in _PLAIN or annotation in _RICH_CONTAINERS or _is_rich_leaf(annotation)


def _is_rich(annotation: Any) -> bool:
    """Does plain data need to be converted for this annotation?"""
    origin = typing.get_origin(annotation)
    parts = typing.get_args(annotation)
    if origin is typing.Annotated:
        return _is_rich(parts[0])
    if origin in _RICH_CONTAINERS:
        return True
    if origin is dict and parts and parts[0] is not str and parts[0] is not Any:
        return True
    if origin in (typing.Union, types.UnionType) or origin in _CONTAINERS:
        return any(map(_is_rich, parts))
    return annotation in _RICH_CONTAINERS or _is_rich_leaf(annotation)


def _is_rich_leaf(annotation: Any) -> bool:
    if not isinstance(annotation, type):
        return False
    if annotation in _RICH or issubclass(annotation, (enum.Enum, msgspec.Struct)):
        return True
    is_named_tuple = issubclass(annotation, tuple) and hasattr(annotation, "_fields")
    return is_named_tuple or dataclasses.is_dataclass(annotation) or hasattr(annotation, "__pydantic_validator__")


def _converted(name: str, converter: Converter, value: Any) -> Any:
    try:
        return converter(value)
    except ValueError as error:
        # What a model says of its data is the cause of what msgspec says.
        told = error.__cause__ if isinstance(error.__cause__, ValueError) else error
        told.add_note(f"in argument {name!r}")
        raise told from None


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    """Returns the annotation itself for one written as text (``from __future__ import annotations``)."""
    if not isinstance(annotation, str):
        return annotation
    inner = inspect.unwrap(function)
    scope = getattr(inner, "__globals__", {})
    try:
        return eval(annotation, scope)
    except Exception:  # noqa: BLE001 - names that only a type checker sees: the argument comes as it is
        return Any


def _signature(function: Callable[..., Any], follow_wrapped: bool) -> inspect.Signature | None:
    try:
        return inspect.signature(function, follow_wrapped=follow_wrapped)
    except (TypeError, ValueError):
        # Some built-in functions have none.
        return None


def _without_first(signature: inspect.Signature, count: int) -> inspect.Signature:
    return signature.replace(parameters=list(signature.parameters.values())[count:]) if count else signature
