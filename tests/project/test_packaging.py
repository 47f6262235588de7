"""What is shipped: the packages and nothing else."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from project_files import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
PACKAGES = [Path(package) for package in SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
FOLDERS = ("transports", "plugins", "tests", "conf", "scripts")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds wheel and source distribution, without a network."""
    pytest.importorskip("hatchling", reason="the build back end is not installed: run scripts/setup")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    """The wheel, opened."""
    (file,) = built.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_exactly_the_packages(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    info = f"prefork_engine-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {*(package.name for package in PACKAGES), info}
    expected = {
        str(file.relative_to(ROOT / package.parent))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if not name.startswith(info)} == expected
    assert "engine/py.typed" in names
    assert f"{info}/licenses/LICENSE" in names


def test_the_wheel_registers_what_it_should(wheel: zipfile.ZipFile) -> None:
    parser = configparser.ConfigParser()
    (name,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    parser.read_string(wheel.read(name).decode())
    for group, entries in PROJECT["entry-points"].items():
        assert dict(parser[group]) == entries
    assert dict(parser["console_scripts"]) == PROJECT["scripts"]


def test_the_source_distribution_can_be_tested(built: Path) -> None:
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "conf/worker.toml",
        "docs/celery.md",
        "scripts/test",
    }
    assert needed <= names
    assert "tests/project/test_packaging.py" in names


def test_the_folders_are_not_importable(tmp_path: Path) -> None:
    """``tests`` or ``transports`` on a user's machine would hide, or be hidden by, modules of the user's own."""
    program = f"import importlib.util as u; print([n for n in {FOLDERS} if u.find_spec(n)])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
