"""What `engine plugin new` writes can be installed, is discovered, and passes its tests."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from module_runs import run

from engine.cli import main
from engine.cli.plugin_files import KINDS, contents

NAMES = {"transport": "north-star", "results": "ledger", "observer": "audit2"}
CHECKED = {
    "transport": ("--url", "north-star://check"),
    "results": ("--url", "ledger://check"),
    "observer": (),
}


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one plugin of each kind was written; and all were installed, into its folder ``site``."""
    pytest.importorskip("hatchling", reason="the build back end is not installed: run scripts/setup")
    folder = tmp_path_factory.mktemp("written")
    for kind, name in NAMES.items():
        done = run(folder, "engine.cli.main", "plugin", "new", name, "--kind", kind)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"pip install -e './engine-{name}[dev]'" in done.stdout
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    packages = [f"./engine-{name}" for name in NAMES.values()]
    done = run(folder, "pip", "install", "--quiet", *offline, "--target", "site", *packages)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_its_tests_pass(written: Path, kind: str) -> None:
    # The suite on the template's code is run where the page that it comes from is tested: of it, some tests will do.
    part = ("-k", "worker or arrives or mixed_batch or flag_says_no") if kind == "transport" else ()
    done = run(written / f"engine-{NAMES[kind]}", "pytest", "-q", *part, paths=(written / "site",))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_check_finds_no_fault(written: Path, kind: str) -> None:
    command = ("engine.cli.main", "plugin", "check", NAMES[kind], *CHECKED[kind])
    done = run(written, *command, paths=(written / "site",))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"ok", "note"}


def test_plugins_lists_them(written: Path) -> None:
    listed = run(written, "engine.cli.main", "plugins", paths=(written / "site",)).stdout
    rows = [line.split() for line in listed.splitlines()]
    for kind, name in NAMES.items():
        module = f"engine_{name.replace('-', '_')}.{kind}"
        assert [KINDS[kind], name, module, f"engine-{name}", "0.1.0"] in rows


def test_the_shown_configuration_is_accepted(written: Path) -> None:
    folder = written / "engine-north-star"
    command = ("engine.cli.main", "check", "-c", "worker.toml", "--no-connect")
    done = run(folder, *command, paths=(written / "site",))
    assert "north-star:///tmp/engine-north-star (not tried)" in done.stdout
    assert "error" not in {line.split(" ")[0] for line in done.stdout.splitlines()}


def test_the_code_is_clean(written: Path) -> None:
    pytest.importorskip("mypy")
    modules = [f"engine-{name}/engine_{name.replace('-', '_')}" for name in NAMES.values()]
    done = run(written, "mypy", "--strict", "--cache-dir", "mypy", *modules, paths=(written / "site",))
    assert done.returncode == 0, done.stdout
    done = run(written, "ruff", "check", "--isolated", "--select", "E,F,I,B,UP", "--line-length", "120", *modules)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_of_the_template_is_left(kind: str) -> None:
    files = dict(contents("north-star", kind))
    assert "pyproject.toml" in map(str, files)
    assert [str(path) for path, text in files.items() if "spool" in f"{path} {text}".lower()] == []
    project = tomllib.loads(files[Path("pyproject.toml")])["project"]
    assert project["entry-points"] == {KINDS[kind]: {"north-star": f"engine_north_star.{kind}"}}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("Nats", "nats"), ("my_queue", "my-queue"), ("7up", "up"), ("a--b", "a-b"), ("x" * 41, "x" * 40), ("é", None)],
)
def test_a_name_that_does_not_fit(
    name: str, hint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.run(["plugin", "new", name, "--kind", "observer"]) == 64
    told = capsys.readouterr().err
    assert f"{name!r} is no name for a plugin" in told
    assert hint is None or f'such as "{hint}"' in told
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = tmp_path / "mine"
    assert main.run(["plugin", "new", "memory", "--kind", "transport", "--into", str(into)]) == 1
    assert "'memory' is taken: prefork-engine has it in engine.transports" in capsys.readouterr().err
    assert not into.exists()
    assert main.run(["plugin", "new", "memory", "--kind", "observer", "--into", str(into)]) == 0


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("kept")
    command = ["plugin", "new", "nats", "--kind", "transport", "--into", str(tmp_path / "mine")]
    assert main.run(command) == 1
    assert "mine is there already: remove it, or choose another folder with --into" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes"]


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    command = ["plugin", "new", "nats", "--kind", "transport", "--into", str(tmp_path / "file" / "mine")]
    assert main.run(command) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_a_kind_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["plugin", "new", "nats", "--kind", "broker"]) == 64
    assert "'transport', 'results', 'observer'" in capsys.readouterr().err
