"""No long files, no long functions, no in-function imports, no drawers for everything.

An exception carries its reason: ``# long: why`` in the first line of a function (or of a file), a reason on the
line of an import inside a function (any comment will do).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from project_files import ROOT, SOURCE_FOLDERS, product_files, python_files, shown

MAX_FILE = 500
MAX_FUNCTION = 60
DRAWERS = frozenset({"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "job"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split("\n")


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), shown(file))


def _functions(file: Path) -> Iterator[Function]:
    return (node for node in ast.walk(_tree(file)) if isinstance(node, Function))


def test_no_file_is_too_long() -> None:
    long = []
    for file in product_files():
        if file.suffix == ".py" or file.read_bytes().startswith(b"#!"):
            lines = _lines(file)
            if len(lines) - 1 > MAX_FILE and "# long: " not in lines[0]:
                long.append(f"{shown(file)}: {len(lines) - 1} lines")
    assert long == []


def test_no_function_is_too_long() -> None:
    long = []
    for file in python_files(*SOURCE_FOLDERS):
        lines = _lines(file)
        for function in _functions(file):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > MAX_FUNCTION and "# long: " not in lines[function.lineno - 1]:
                long.append(f"{shown(file)}:{function.lineno} {function.name}: {length} lines")
    assert long == []


def test_imports_inside_functions_say_why() -> None:
    late = []
    for file in python_files("engine", "transports", "plugins"):
        lines = _lines(file)
        for function in _functions(file):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom) and "#" not in lines[node.lineno - 1]:
                    late.append(f"{shown(file)}:{node.lineno}")
    assert sorted(set(late)) == []


def test_no_file_is_a_drawer_for_everything() -> None:
    assert [shown(file) for file in python_files(*SOURCE_FOLDERS) if file.stem in DRAWERS] == []


def test_every_module_says_what_it_is() -> None:
    files = python_files("engine", "transports", "plugins", "tests")
    assert [shown(file) for file in files if file.stat().st_size and not ast.get_docstring(_tree(file))] == []


def test_every_runtime_module_names_the_process_it_runs_in() -> None:
    processes = ("supervisor", "dispatcher", "template", "child", "process")
    unnamed = []
    for file in python_files("engine/runtime"):
        first = (ast.get_docstring(_tree(file)) or "").split("\n")[0].lower()
        if file.name != "__init__.py" and not any(process in first for process in processes):
            unnamed.append(shown(file))
    assert unnamed == []


def test_only_spawn_forks() -> None:
    """All processes come from one place; the demo and the tests have their own ways."""
    forks = [
        shown(file)
        for file in python_files(
            "engine/app", "engine/contract", "engine/runtime", "engine/cli", "transports", "plugins"
        )
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.fork"
    ]
    assert set(forks) <= {"engine/runtime/spawn.py"}


def test_the_folders_are_where_they_are_looked_for() -> None:
    assert [name for name in SOURCE_FOLDERS if not (ROOT / name).is_dir()] == []
