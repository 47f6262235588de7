"""Runtime files lie where nobody else can put theirs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.app.config.folders import lock_path, runtime_dir, socket_path
from engine.app.settings import EngineSection, Settings
from engine.errors import ConfigError


def _settings(folder: Path | None = None, name: str = "demo") -> Settings:
    return Settings(engine=EngineSection(name=name, runtime_dir=None if folder is None else str(folder)))


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_folder_of_the_configuration_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert runtime_dir(_settings(folder)) == folder
    assert _mode(folder) == 0o700
    assert socket_path(_settings(folder)) == folder / "demo.sock"
    assert lock_path(_settings(folder)) == folder / "demo.lock"


def test_a_relative_folder_starts_at_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runtime_dir(_settings(Path("run"))) == tmp_path / "run"


def test_the_folder_of_the_login_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_dir(_settings()) == tmp_path / "engine"
    assert _mode(tmp_path / "engine") == 0o700


def test_the_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = runtime_dir(_settings())
    assert folder == tmp_path / f"engine-{os.geteuid()}"
    assert _mode(folder) == 0o700
    folder.chmod(0o750)
    with pytest.raises(ConfigError, match=rf"others have access to {folder}: chmod 700"):
        runtime_dir(_settings())


def test_a_link_that_the_operator_named_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert runtime_dir(_settings(tmp_path / "link")) == tmp_path / "link", "and others may look into it"
    (tmp_path / "there").chmod(0o775)
    with pytest.raises(ConfigError, match="others have access"):
        runtime_dir(_settings(tmp_path / "link"))


def test_a_link_in_place_of_the_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"engine-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is not a folder"):
        runtime_dir(_settings())


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match=r"\[engine\] runtime_dir: others have access"):
        runtime_dir(_settings(tmp_path))
    tmp_path.chmod(0o755)
    assert runtime_dir(_settings(tmp_path)) == tmp_path


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4242)
    with pytest.raises(ConfigError, match=r"belongs to another user \(uid \d+\): set \[engine\] runtime_dir"):
        runtime_dir(_settings(tmp_path))


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot make .*file"):
        runtime_dir(_settings(tmp_path / "file"))


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"longer than the 107 bytes .*: choose a shorter folder or name"):
        socket_path(_settings(tmp_path / ("x" * 100)))
