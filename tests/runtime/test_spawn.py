"""Forks that cannot be had: what the template is told of them."""

import errno
import os

import pytest

from engine.app.plugins import entries
from engine.runtime import spawn
from engine.runtime.dispatcher import dispatcher


def test_a_second_fork_that_fails_is_raised_where_the_first_was_made(monkeypatch):
    fork, template = os.fork, os.getpid()

    def one_only():
        if os.getpid() != template:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", one_only)
    with pytest.raises(BlockingIOError, match="Resource temporarily unavailable"):
        spawn.child(lambda pid: None, lambda middle: 0)


def test_a_child_of_whom_nobody_can_be_told_is_no_error():
    def gone(pid):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert not spawn.child(gone, lambda middle: 0)


def test_what_another_process_returns_and_nothing_else_comes_back():
    seen = []
    assert spawn.apart(lambda: b"x" * 200_000 + bytes(seen.append(1) or b"")) == b"x" * 200_000
    assert seen == []


def test_a_call_that_fails_in_another_process_is_an_error_here(capfd):
    with pytest.raises(ChildProcessError, match="status 70"):
        spawn.apart(lambda: bytes(1 // 0))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_without_another_process_the_dispatcher_looks_for_plugins_itself(monkeypatch):
    def none():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", none)
    monkeypatch.setattr(entries, "_remembered", None)
    dispatcher._look_for_plugins()
    assert entries._remembered is None
    assert entries.named("engine.transports", "redis")


def test_the_dispatcher_remembers_what_another_process_found(monkeypatch):
    installed = entries.listed("engine.transports")
    monkeypatch.setattr(entries, "_remembered", None)
    dispatcher._look_for_plugins()
    monkeypatch.setattr(entries, "_look_up", lambda group: pytest.fail("it looks again"))
    assert entries.listed("engine.transports") == installed
    assert entries.named("engine.results", "rpc")[0].module == "engine_rabbitmq"
