"""E-mail sending, as in the tutorials."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from proj.mail import send_email

from engine.testing import Worker
from engine.testing.harness import wait_for

TIMEOUT = 20
APART = 60 / 100
"""Seconds between two e-mails at 100/m."""


def test_the_server_is_tried_again(running: Worker, folder: Path) -> None:
    (folder / "down").touch()
    result = send_email.delay("ann@example.org", "hello", outbox=str(folder))
    assert result.get(timeout=TIMEOUT) == "sent to ann@example.org after 1 retries"


def test_the_rate_is_kept(running: Worker, folder: Path) -> None:
    results = [send_email.delay(f"{name}@example.org", "hello", str(folder)) for name in ("ann", "bob", "cleo")]
    assert [result.get(timeout=TIMEOUT).split()[2] for result in results] == [
        "ann@example.org",
        "bob@example.org",
        "cleo@example.org",
    ]
    times = sorted(json.loads(mail.read_text())["at"] for mail in folder.glob("*.mail"))
    assert len(times) == 3
    assert times[2] - times[0] >= 2 * APART - 0.5, "three e-mails came faster than the rate allows"


def test_what_is_scheduled_for_later_can_be_revoked(running: Worker, folder: Path) -> None:
    # A broker that looks no messages up (RabbitMQ) has it met by a worker, when it is due.
    finds = running.app.client.broker(lambda transport: transport.capabilities.finds)
    later = send_email.apply_async(("ann@example.org", "hello", str(folder)), countdown=3600 if finds else 2)
    assert later.state == "PENDING"
    later.revoke()
    wait_for(lambda: later.state == "REVOKED", "the revocation")
    assert not list(folder.glob("*.mail"))


def test_wrong_arguments_are_the_callers_mistake(running: Worker) -> None:
    with pytest.raises(TypeError, match="subject"):
        send_email.delay("ann@example.org")
