"""How arguments and results become bytes: JSON (the default), msgpack, and pickle for who asks for it.

JSON and msgpack carry str, int, float, bool, None, list, tuple, set, frozenset, dict, bytes, datetime, date, time,
timedelta, UUID, Decimal, Enum, dataclasses, msgspec structs and pydantic models. A value comes back as its own type
where a parameter (or a return value) is annotated with it, otherwise as what the format has: text, number, list, dict.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from engine.app.nearest import did_you_mean
from engine.contract.codec import Codec
from engine.errors import ConfigError, SerializationError

_ONLY_AS_VALUES = (bool, type(None), tuple, bytes, frozenset)
"""Types that msgspec carries, so that the hook only sees them as the keys of a dict."""


class Uncarried(TypeError):
    """A value of ``type`` that no codec but pickle carries."""

    def __init__(self, type: type, why: str = "") -> None:
        super().__init__(type, why)
        self.type = type
        self.why = why

    def __str__(self) -> str:
        return self.why or f"{self.type.__module__}.{self.type.__qualname__} objects cannot be carried"


def to_plain(value: Any) -> Any:
    """Turns what msgspec does not know into what it does: pydantic models, and subclasses of str, int and float.
    Raises `Uncarried` for anything else."""
    if isinstance(value, _ONLY_AS_VALUES):
        raise Uncarried(type(value), f"keys are text or numbers, not {type(value).__name__}")
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if hasattr(type(value), "__pydantic_validator__"):
        # By names, and without computed fields: as `from_plain` takes it back, whatever aliases the model has.
        return value.model_dump(mode="json", by_alias=False, round_trip=True)
    raise Uncarried(type(value))


def from_plain(wanted: Any, value: Any) -> Any:
    """Builds a pydantic model from plain data, by names or aliases; other types are left as they came.

    Raises pydantic's ValidationError (a ValueError).
    """
    if hasattr(wanted, "__pydantic_validator__") and not isinstance(value, wanted):
        # As JSON, since that is what it was: a strict model then takes text for a datetime.
        return wanted.model_validate_json(_as_json(value), by_alias=True, by_name=True)
    return value


def _as_json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except TypeError as error:
        raise ValueError(f"a model is made of what JSON carries: {error}") from None


class JsonCodec(Codec):
    """JSON text."""

    name: ClassVar[str] = "json"
    is_json: ClassVar[bool] = True
    _encoder = msgspec.json.Encoder(enc_hook=to_plain)
    _decoder = msgspec.json.Decoder()

    def encode(self, value: object) -> bytes:
        """Returns JSON text. Raises TypeError or ValueError for what JSON cannot carry, nan and infinity included."""
        data = self._encoder.encode(value)
        if value is not None and b"null" in data and _has_nan(value):
            raise Uncarried(float, "JSON has no nan and no infinity")
        return data

    def decode(self, data: bytes, type: Any = Any) -> Any:
        """Reads JSON text."""
        if type is Any:
            return self._decoder.decode(data)
        return msgspec.json.decode(data, type=type, dec_hook=from_plain)


class MsgpackCodec(Codec):
    """msgpack: as JSON, and nan, infinity, bytes and int keys come back as they were."""

    name: ClassVar[str] = "msgpack"
    is_json: ClassVar[bool] = False
    _encoder = msgspec.msgpack.Encoder(enc_hook=to_plain)
    _decoder = msgspec.msgpack.Decoder()

    def encode(self, value: object) -> bytes:
        """Returns msgpack bytes. Raises TypeError, ValueError or OverflowError."""
        return self._encoder.encode(value)

    def decode(self, data: bytes, type: Any = Any) -> Any:
        """Reads msgpack bytes."""
        if type is Any:
            return self._decoder.decode(data)
        return msgspec.msgpack.decode(data, type=type, dec_hook=from_plain)


class PickleCodec(Codec):
    """pickle: carries nearly everything, and runs whatever the sender likes. Only used where ``accept`` names it."""

    name: ClassVar[str] = "pickle"
    is_json: ClassVar[bool] = False

    def encode(self, value: object) -> bytes:
        """Returns a pickle. Raises TypeError or ValueError."""
        import pickle  # late, here and below: 0.3 MiB of a worker, and few have a use for it

        try:
            return pickle.dumps(value, protocol=5)
        except (pickle.PicklingError, AttributeError) as error:
            raise TypeError(str(error)) from None

    def decode(self, data: bytes, type: Any = Any) -> Any:
        """Reads a pickle, running what it names. Raises ValueError when that fails."""
        import pickle  # late, as above

        try:
            return pickle.loads(data)
        except Exception as error:  # a pickle can raise anything
            raise ValueError(f"{error.__class__.__name__}: {error}") from error


_codecs: dict[str, Codec] = {codec.name: codec for codec in (JsonCodec(), MsgpackCodec(), PickleCodec())}
JSON = _codecs["json"]


def find(name: str) -> Codec:
    """Returns the codec of that name. Raises ConfigError when there is none."""
    try:
        return _codecs[name]
    except KeyError:
        raise ConfigError(unknown(name)) from None


def exists(name: str) -> bool:
    """Is there a codec of that name, built in or from a plugin that was loaded?"""
    return name in _codecs


def unknown(name: str) -> str:
    """Returns what is said of a name that no codec has."""
    others = f": there are {', '.join(sorted(_codecs))}; others come from a plugin"
    return f"no serializer {name!r}{did_you_mean(name, _codecs) or others}"


def register(codecs: Mapping[str, Codec] | Sequence[Codec]) -> None:
    """Adds codecs, as plugins bring them. A name that is there already is replaced."""
    found = codecs.values() if isinstance(codecs, Mapping) else codecs
    _codecs.update({codec.name: codec for codec in found})


def encode(codec: Codec, value: object) -> bytes:
    """Returns ``value`` as the JSON text that goes into a message or a record: the codec's own, or a JSON string that
    holds its output as base64. Raises `SerializationError` naming the type."""
    try:
        data = codec.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SerializationError(f"{codec.name} cannot carry {_kind(value, error)}: {_reason(error)}") from error
    return data if codec.is_json else b'"' + base64.b64encode(data) + b'"'


def decode(codec: Codec, data: bytes) -> Any:
    """Reads what `encode` wrote. Raises ValueError."""
    if not codec.is_json:
        text = msgspec.json.decode(data, type=str)
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"not base64: {error}") from None
    try:
        return codec.decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def culprit(error: BaseException | None) -> type | None:
    """Returns the type of the value that could not be carried, when the codec said which."""
    return error.type if isinstance(error, Uncarried) else None


def _kind(value: object, error: BaseException) -> str:
    found = culprit(error) or type(value)
    article = "an" if found.__qualname__[:1].lower() in "aeiou" else "a"
    return f"{article} {found.__qualname__}"


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or holds itself"
    return str(error)


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_nan, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(map(_has_nan, value))
    return any(_has_nan(getattr(value, name)) for name in _fields(value))


def _fields(value: Any) -> Iterable[str]:
    kind: Any = type(value)
    for names in ("__struct_fields__", "__dataclass_fields__", "__pydantic_fields__"):
        if hasattr(kind, names):
            return tuple(getattr(kind, names))
    return ()
