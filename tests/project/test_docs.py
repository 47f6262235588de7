"""The documents say what the code does: hooks, errors, public names, examples."""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Iterator

import pytest
from project_files import ROOT, product_files, shown

import engine
import engine.contract
import engine.errors

# Put together here, so that this file does not hold what it looks for.
NOT_OURS = [
    "../" + "shared",
    "/work" + "/",
    "pypi" + ".org",
    "python" + "hosted",
    "\u2014",
]
DOCUMENTS = (
    sorted(ROOT.glob("*.md"))
    + sorted(ROOT.glob("docs/*.md"))
    + sorted(ROOT.glob("transports/**/*.md"))
    + sorted(ROOT.glob("plugins/*.md"))
)


def _hooks() -> Iterator[ast.FunctionDef]:
    tree = ast.parse((ROOT / "engine/contract/hookspecs.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any("hookspec" in ast.unparse(mark) for mark in node.decorator_list):
            yield node


@pytest.mark.parametrize("hook", list(_hooks()), ids=lambda hook: hook.name)
def test_every_hook_is_documented_with_its_exact_signature(hook: ast.FunctionDef) -> None:
    signature = f"def {hook.name}({ast.unparse(hook.args)}) -> {ast.unparse(hook.returns) if hook.returns else None}"
    text = (ROOT / "transports/README.md").read_text() + (ROOT / "plugins/README.md").read_text()
    assert signature in text, f"write this signature into transports/README.md or plugins/README.md: {signature}"
    assert ast.get_docstring(hook)


def _drawn_tree() -> dict[str, str]:
    """The parent of each exception as the tree at the top of errors.py shows it."""
    parents: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (engine.errors.__doc__ or "").splitlines():
        found = re.match(r"^([ │├└─]*)([A-Z][A-Za-z]+)( {2,}.*)?$", line)
        if found and ("─" in found[1] or found[2] in {"Exception", "BaseException"}):
            depth = len(found[1])
            path = [(above, name) for above, name in path if above < depth]
            if path:
                parents[found[2]] = path[-1][1]
            path.append((depth, found[2]))
    return parents


def test_the_tree_of_exceptions_is_drawn_as_it_is() -> None:
    classes = {
        name: member
        for name, member in vars(engine.errors).items()
        if inspect.isclass(member) and member.__module__ == "engine.errors"
    }
    assert _drawn_tree() == {name: member.__bases__[0].__name__ for name, member in classes.items()}


def _undocumented(owner: types.ModuleType) -> Iterator[str]:
    for name in owner.__all__:
        member = getattr(owner, name)
        if not (inspect.isclass(member) or inspect.isroutine(member)):
            continue
        if not inspect.getdoc(member) or (inspect.isclass(member) and not member.__doc__):
            yield f"{owner.__name__}.{name}"
        if inspect.isclass(member):
            for method in _own_methods(member):
                yield f"{owner.__name__}.{name}.{method}"


def _own_methods(owner: type) -> Iterator[str]:
    """Public methods of the class itself that have no docstring, not even an inherited one."""
    for name, member in vars(owner).items():
        is_method = isinstance(member, types.FunctionType | property | classmethod | staticmethod)
        if is_method and not name.startswith("_") and not inspect.getdoc(getattr(owner, name)):
            yield name


@pytest.mark.parametrize("owner", [engine, engine.contract], ids=lambda owner: owner.__name__)
def test_every_public_name_has_a_docstring(owner: types.ModuleType) -> None:
    assert list(_undocumented(owner)) == []


def test_every_name_in_all_exists() -> None:
    for owner in (engine, engine.contract):
        assert [name for name in owner.__all__ if not hasattr(owner, name)] == []
        assert len(set(owner.__all__)) == len(owner.__all__)


def test_every_exception_is_exported() -> None:
    assert {name for name in vars(engine.errors) if inspect.isclass(vars(engine.errors)[name])} <= set(engine.__all__)


def test_nothing_mentions_what_is_no_part_of_it() -> None:
    found = []
    for file in product_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{shown(file)}: {word!r}" for word in NOT_OURS if word in text]
    assert found == []


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            path = target.partition("#")[0]
            if path and "://" not in path and not (document.parent / path).exists():
                broken.append(f"{shown(document)}: {target}")
    assert broken == []


@pytest.mark.parametrize("folder", ["transports", "plugins"])
def test_every_package_is_in_the_list_of_its_folder(folder: str) -> None:
    packages = {file.parent.name for file in (ROOT / folder).glob("*/__init__.py")}
    text = (ROOT / folder / "README.md").read_text()
    assert {name for name in packages if f"[{name}]({name})" not in text} == set()
