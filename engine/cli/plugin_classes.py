"""What `engine plugin check` sees in the classes of a plugin, without making objects of them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from inspect import Parameter
from typing import Any

from engine.app.nearest import did_you_mean
from engine.cli.checks import Finding
from engine.contract import Capabilities, Codec, Consumer, ResultBackend, Transport

IN_ONE_PROCESS = ("keeps_claims", "durable", "other_hosts")
"""Flags that nothing which lives in one process can have."""
OPTION_TYPES = (str, int, float, bool, list)
_GENERATORS = {"wait"}
"""Methods of the contracts that may be generators."""


def transport_findings(cls: Any) -> Iterator[Finding]:
    """Looks over what `engine_transport` gave."""
    if not (isinstance(cls, type) and issubclass(cls, Transport)):
        yield Finding("error", "class", f"{cls!r} is no subclass of engine.contract.Transport")
        return
    yield from _methods(cls, Transport)
    yield from _options(cls)
    yield from _capabilities(cls)
    consumers = [
        value
        for value in vars(sys.modules[cls.__module__]).values()
        if isinstance(value, type) and issubclass(value, Consumer) and value is not Consumer
    ]
    for consumer in consumers:
        yield from _methods(consumer, Consumer)
    if not consumers:
        yield Finding("note", "class", f"{cls.__module__} has no consumer: with --url, the one of consume() is checked")


def consumer_findings(consumer: object) -> Iterator[Finding]:
    """Looks over what `Transport.consume` gave."""
    if not isinstance(consumer, Consumer):
        yield Finding("error", "class", f"consume() gave {consumer!r}, which is no engine.contract.Consumer")
        return
    yield from _methods(type(consumer), Consumer)


def results_findings(cls: Any) -> Iterator[Finding]:
    """Looks over what `engine_results` gave."""
    if not (isinstance(cls, type) and issubclass(cls, ResultBackend)):
        yield Finding("error", "class", f"{cls!r} is no subclass of engine.contract.ResultBackend")
        return
    yield from _methods(cls, ResultBackend)
    yield from _options(cls)


def codec_findings(codec: Any) -> Iterator[Finding]:
    """Looks over one of those that `engine_codecs` gave, and takes a value through it."""
    if not isinstance(codec, Codec):
        yield Finding("error", "codec", f"{codec!r} is no instance of engine.contract.Codec")
        return
    yield from _methods(type(codec), Codec)
    value = {"text": "ü", "numbers": [1, 2.5], "nothing": None}
    try:
        back = codec.decode(codec.encode(value))
    except Exception as error:  # noqa: BLE001 - a plugin's fault is a finding
        yield Finding("error", "codec", f"{codec.name}: {type(error).__name__}: {error}")
        return
    if back == value:
        yield Finding("ok", "codec", f"{codec.name} carries {value}")
    else:
        yield Finding("error", "codec", f"{codec.name} makes {back!r} of {value}")


def fault_of(cls: type, name: str, contract: type) -> str | None:
    """Says what is wrong with a class's method as the contract calls it; None when nothing is."""
    method, wanted = getattr(cls, name), getattr(contract, name)
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        return "is async: the engine calls it from a thread and takes what it returns"
    if inspect.isgeneratorfunction(method) and name not in _GENERATORS:
        return "is a generator, which does nothing until somebody iterates over it: return a list"
    asked = list(inspect.signature(wanted).parameters.values())
    given = inspect.signature(method).parameters
    lacking = [parameter.name for parameter in asked if not _is_taken(parameter, asked, given)]
    known = {parameter.name for parameter in asked}
    demanded = [p.name for p in given.values() if p.name not in known and _is_required(p)]
    if lacking or demanded:
        faults = [f"does not take {', '.join(lacking)}"] if lacking else []
        faults += [f"demands {', '.join(demanded)}, which nobody gives"] if demanded else []
        return f"{' and '.join(faults)}: write def {name}{_bare(wanted)}"
    return None


def _methods(cls: type, contract: type) -> Iterator[Finding]:
    faults = [
        f"{cls.__name__} does not implement {name}: write def {name}{_bare(getattr(contract, name))}"
        for name in sorted(getattr(cls, "__abstractmethods__", ()))
    ]
    own = [name for name in dir(cls) if inspect.isfunction(getattr(cls, name)) and not hasattr(object, name)]
    for name in ["__init__", *own]:
        # object.__init__ of a contract that has none says nothing.
        if inspect.isfunction(getattr(contract, name, None)) and (fault := fault_of(cls, name, contract)):
            faults.append(f"{cls.__name__}.{name} {fault}")
    for fault in faults:
        yield Finding("error", "class", fault)
    for name in own:
        if not name.startswith("_") and not hasattr(contract, name) and (hint := did_you_mean(name, dir(contract))):
            yield Finding("warning", "class", f"{cls.__name__}.{name} is not in the contract{hint}")
    if not faults:
        yield Finding("ok", "class", f"{cls.__module__}.{cls.__qualname__} implements {contract.__name__}")


def _is_taken(parameter: Parameter, asked: list[Parameter], given: Any) -> bool:
    """Can it be given as the contract says: in its place, by its name, or not at all where it has a default?"""
    kinds = [one.kind for one in given.values()]
    found = given.get(parameter.name)
    if found is None:
        by_keyword = Parameter.VAR_KEYWORD in kinds
        return by_keyword and (parameter.kind is Parameter.KEYWORD_ONLY or Parameter.VAR_POSITIONAL in kinds)
    if parameter.default is not Parameter.empty and _is_required(found):
        return False
    if parameter.kind is Parameter.KEYWORD_ONLY:
        return found.kind is not Parameter.POSITIONAL_ONLY
    names = list(given)
    in_place = names.index(parameter.name) == asked.index(parameter)
    return in_place and found.kind is Parameter.POSITIONAL_OR_KEYWORD


def _is_required(parameter: Parameter) -> bool:
    is_single = parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return is_single and parameter.default is Parameter.empty


def _bare(function: Any) -> str:
    """A signature without its types."""
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def _options(cls: Any) -> Iterator[Finding]:
    for name, kind in dict(cls.options).items():
        if kind not in OPTION_TYPES and getattr(kind, "__origin__", None) is not list:
            known = ", ".join(one.__name__ for one in OPTION_TYPES)
            yield Finding("error", "options", f"{name}: {kind!r} is no type that TOML has: write one of {known}")
        if name in ("url", "expires"):
            yield Finding("error", "options", f"{name} is a key of the engine's own: choose another name")
    if cls.options:
        yield Finding("ok", "options", ", ".join(f"{name} ({_type_name(kind)})" for name, kind in cls.options.items()))


def _type_name(kind: Any) -> str:
    return "duration" if kind is float else getattr(kind, "__name__", str(kind))


def _capabilities(cls: type[Transport]) -> Iterator[Finding]:
    flags = getattr(cls, "capabilities", None)
    if not isinstance(flags, Capabilities):
        text = f"{cls.__name__} has no `capabilities`: write capabilities = Capabilities(...) in the class"
        yield Finding("error", "flags", text)
        return
    yes = [name for name in Capabilities.__struct_fields__ if getattr(flags, name)]
    no = [name for name in Capabilities.__struct_fields__ if not getattr(flags, name)]
    yield Finding("ok", "flags", f"yes: {', '.join(yes) or 'none'}")
    yield Finding("note", "flags", f"no: {', '.join(no) or 'none'}")
    for name in IN_ONE_PROCESS:
        if flags.in_process and name in yes:
            yield Finding("error", "flags", f"in_process and {name}: what lives in one process ends with it")
    if flags.lists_scheduled and not flags.delays:
        yield Finding("error", "flags", "lists_scheduled without delays: nothing is delayed that could be listed")
    shares = cls.share_results is not Transport.share_results
    if flags.stores_results and not shares:
        yield Finding("error", "flags", "stores_results: write share_results(), which tells it where; else say no")
    if shares and not flags.stores_results:
        yield Finding("warning", "flags", "share_results() is there, and stores_results says no: one of them is wrong")
