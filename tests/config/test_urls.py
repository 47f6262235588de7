"""URLs are shown without their passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.app.config.urls import check_url, readable, redact, scheme_of


@pytest.mark.parametrize("text", ["rediss", "localhost:6379", "10.0.0.7:5672/vhost", "", "engine.db"])
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(ValueError, match=r'^".*" is not a URL such as "sqlite:///engine.db"'):
        check_url(text)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost/0", "redis://localhost/0"),
        ("redis://:s3cret@localhost/0", "redis://:***@localhost/0"),
        ("amqp://me:s3cret@host:5672/vhost", "amqp://me:***@host:5672/vhost"),
        ("amqp://me:s3/cr@t@host/", "amqp://me:***@host/"),
        ("amqp://me@host:5672/", "amqp://me@host:5672/"),
        ("redis://h/0?password=s3cret&x=1&token=t", "redis://h/0?password=***&x=1&token=***"),
        ("sqlite:////srv/a.db", "sqlite:////srv/a.db"),
        ("memory://", "memory://"),
        ("", ""),
    ],
)
def test_passwords_are_hidden(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert readable(url) == shown


def test_a_relative_sqlite_path_is_shown_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert readable("sqlite:///data/engine.db?mode=ro") == f"sqlite:///{tmp_path}/data/engine.db?mode=ro"


@pytest.mark.parametrize(
    ("url", "scheme"), [("redis+socket:///x", "redis"), ("AMQP://h", "amqp"), ("memory:", "memory"), ("no url", "")]
)
def test_the_scheme_names_the_plugin(url: str, scheme: str) -> None:
    assert scheme_of(url) == scheme
