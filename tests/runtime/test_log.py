"""The log never makes its writer wait, whatever its other end does."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runtime import log

FILL = """
import os, sys
from engine.runtime.log import LogWriter
writer = LogWriter()
for number in range(20000):
    writer.write(f"line {number} " + "x" * 100)
os.write(1, b"done " + str(writer.pending).encode())
"""


def run(stderr, code: str = FILL) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=stderr, timeout=30, check=True
    ).stdout.decode()


def test_a_full_pipe_is_not_waited_for():
    read_end, write_end = os.pipe()
    try:
        assert run(write_end) == "done True"
        assert os.get_blocking(write_end), "the descriptor that others share still blocks"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_full_socket_is_not_waited_for():
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert run(theirs) == "done True"


def test_a_pipe_that_nobody_has_open_any_more_is_no_error():
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        assert run(write_end) == "done False"
    finally:
        os.close(write_end)


def test_no_stderr_at_all_is_no_error():
    code = "import os\nos.close(2)\n" + FILL
    assert run(subprocess.DEVNULL, code) == "done False"


def test_a_file_gets_every_line_in_order_also_from_two_writers(tmp_path):
    with open(tmp_path / "log", "ab") as file:
        assert run(file) == "done False"
        assert run(file) == "done False"
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[1] for line in lines] == [str(number) for number in range(20000)] * 2


def test_dropped_lines_are_counted():
    code = """
import os
from engine.runtime.log import LogWriter
writer = LogWriter()
for number in range(9000):
    writer.write("y" * 100)
os.set_blocking(int(os.environ["READ"]), False)
text = b""
while True:
    try:
        text += os.read(int(os.environ["READ"]), 65536)
    except BlockingIOError:
        break
    writer.flush()
os.write(1, [line for line in text.splitlines() if b"dropped" in line][0])
"""
    read_end, write_end = os.pipe()
    try:
        result = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=write_end,
            pass_fds=[read_end],
            env={**os.environ, "READ": str(read_end)},
            timeout=30,
            check=True,
        )
    finally:
        os.close(read_end)
        os.close(write_end)
    assert b"log lines were dropped: they could not be written" in result.stdout


def test_a_full_disk_costs_lines_and_a_disk_with_room_gets_the_next(tmp_path):
    code = """
import resource
from engine.runtime.log import LogWriter
writer = LogWriter()
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
for number in range(30):
    writer.write("y" * 100)
assert not writer.pending
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.write("after")
writer.write("and after")
"""
    with open(tmp_path / "log", "ab") as file:
        run(file, code)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-3:] == ["after", "engine: 21 log lines were dropped: they could not be written", "and after"]


def make_record(**extra) -> logging.LogRecord:
    record = logging.LogRecord("engine.test", logging.WARNING, __file__, 1, "hello %s", ("you",), None)
    record.__dict__.update(extra)
    return record


def test_text_lines_name_time_level_role_and_process():
    line = log.formatter("dispatcher", as_json=False).format(make_record())
    assert line.endswith(f"WARNING dispatcher[{os.getpid()}] hello you")
    assert line[:4].isdigit()


def test_lines_made_inside_a_task_name_it():
    record = make_record(task_id="abc", task_name="demo.add", child=3)
    assert log.formatter("child", as_json=False).format(record).endswith("[demo.add abc]")
    fields = json.loads(log.formatter("child", as_json=True).format(record))
    assert (fields["task_id"], fields["task_name"], fields["child"]) == ("abc", "demo.add", 3)
    assert (fields["message"], fields["level"], fields["role"]) == ("hello you", "WARNING", "child")


def test_what_a_call_gives_as_extra_is_in_its_json_line():
    extra = {"user": 7, "path": Path("/x"), "odd": {(1, 2): 3}, "role": "admin", "task_id": "abc"}
    fields = json.loads(log.formatter("child", as_json=True).format(make_record(**extra)))
    assert (fields["user"], fields["path"], fields["odd"]) == (7, "/x", {})
    assert fields["role"] == "child", "the line's own names are not overwritten"
    assert fields["task_id"] == "abc"
    plain = json.loads(log.formatter("child", as_json=True).format(make_record()))
    assert set(plain) == {"time", "level", "role", "pid", "logger", "message"}


def test_an_app_that_configured_logging_keeps_its_handlers():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        mine = logging.NullHandler()
        root.handlers[:] = [mine]
        log.configure_child("INFO", as_json=False)
        assert root.handlers == [mine]
        root.handlers[:] = []
        log.configure_child("INFO", as_json=True)
        assert isinstance(root.handlers[0].formatter, log.JsonFormatter)
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def record(message: str, level: int = logging.ERROR, **fields: str) -> logging.LogRecord:
    made = logging.LogRecord("engine.task", level, __file__, 1, message, None, None)
    vars(made).update(fields)
    return made


def test_a_line_names_its_task_once():
    text = log.TextFormatter("child")
    fields = {"task_id": "5d1c", "task_name": "t.add"}
    assert text.format(record("bought", **fields)).endswith(" bought [t.add 5d1c]")
    assert text.format(record("t.add[5d1c] failed\nTraceback ...", **fields)).endswith(
        "] t.add[5d1c] failed\nTraceback ..."
    )


def test_the_level_has_its_colour_on_a_terminal_only():
    assert "\x1b" not in log.TextFormatter("child").format(record("lost"))
    coloured = log.TextFormatter("child", in_colour=True)
    assert " \x1b[31mERROR  \x1b[0m child[" in coloured.format(record("lost"))
    assert "\x1b" not in coloured.format(record("up", logging.INFO))


@pytest.mark.parametrize(("env", "in_colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_shows_colours_unless_asked_not_to(env, in_colour):
    ours, theirs = os.openpty()
    code = "from engine.runtime import log; print(log.formatter('child', as_json=False)._colours != {})"
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "", **env}
    try:
        told = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env=env, timeout=30, check=True
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert told.stdout == f"{in_colour}\n".encode()
