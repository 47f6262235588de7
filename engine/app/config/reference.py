"""Lists every setting with its documentation, which is the docstring below its field in `engine.app.settings`."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
from msgspec import UNSET

from engine.app import settings as declared
from engine.app.config.sources import variable
from engine.app.config.values import SECTIONS, keys_of, toml
from engine.app.options import built_in
from engine.app.settings import Duration, Size

_TYPES: dict[Any, str] = {
    Duration: "duration",
    Size: "size",
    bool: "true/false",
    list: "list",
    str: "text",
    int: "number",
}


@dataclass(frozen=True)
class Setting:
    """One setting."""

    section: str
    key: str
    type: str
    """In words: "text", "number", "duration", "size", "list", "true/false", "pattern = queue"."""
    default: str
    """As TOML would write it; "" when there is none: the engine decides, or the setting comes from elsewhere."""
    doc: str
    variable: str
    """The environment variable that sets it; "" if there is none."""


def settings() -> list[Setting]:
    """Returns all settings, in the order of their declaration. Reads the source of `engine.app.settings`."""
    found = []
    for section, cls in SECTIONS.items():
        docs = _docs(cls)
        fields = {field.name: field for field in msgspec.structs.fields(cls)}
        for key, type_ in keys_of(section).items():
            default = _default(section, key, fields[key])
            found.append(Setting(section, key, _type(type_), default, docs[key], variable(section, key)))
    routes = Setting("routes", '"pattern"', "queue", "", _docs(declared.Settings)["routes"], "")
    return [*found, routes]


def _docs(cls: type) -> dict[str, str]:
    """Returns the docstrings below the fields of a class."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    found: dict[str, str] = {}
    if isinstance(body, ast.ClassDef):
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[field.target.id] = inspect.cleandoc(str(ast.literal_eval(below.value)))
    return found


def _type(type_: Any) -> str:
    """Returns the type in words, whatever else (None, Unset) it may also be."""
    kinds = [member for member in (type_, *get_args(type_)) if member not in (type(None), msgspec.UnsetType)]
    plain = [getattr(kind, "__origin__", kind) for kind in kinds]
    return next((words for kind, words in _TYPES.items() if kind in plain), "number")


def _default(section: str, key: str, field: msgspec.structs.FieldInfo) -> str:
    if section == "tasks":
        value = built_in(key)
        return "" if value is None else toml((section, key), value)
    if field.default_factory is not msgspec.NODEFAULT:
        return toml((section, key), field.default_factory())
    return "" if field.default in (UNSET, None, msgspec.NODEFAULT) else toml((section, key), field.default)
