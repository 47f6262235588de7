"""Forks that cannot be had: what the template is told of them."""

import errno
import os

import pytest

from engine.runtime import spawn


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
