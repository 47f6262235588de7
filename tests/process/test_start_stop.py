"""An engine starts, works, drains, and leaves nothing behind; and says in one line why it cannot start."""

import os
import re
import signal
import socket
import threading

import psutil
import pytest

from engine.testing.harness import wait_for


def test_a_task_sent_from_another_process_is_done(up):
    assert up.get("add", 2, 3) == 5
    assert up.engines[0].stop() == 0
    up.engines[0].assert_nothing_left()


def test_the_processes_are_what_they_are_called_and_children_are_the_supervisors(up):
    engine = up.engines[0]
    roles = {row["role"] for row in engine.status()["processes"]}
    assert roles == {"supervisor", "dispatcher", "template"}
    for row in engine.children():
        process = psutil.Process(row["pid"])
        assert process.ppid() == engine.pid
        assert "engine: child" in " ".join(process.cmdline())
    assert psutil.Process(engine.pid_of("dispatcher")).num_threads() > 1
    assert psutil.Process(engine.pid).num_threads() == 1
    assert psutil.Process(engine.pid_of("template")).num_threads() == 1


def test_children_do_not_take_the_cpu_from_who_wakes_them(up):
    engine = up.engines[0]
    assert {os.sched_getscheduler(row["pid"]) for row in engine.children()} == {os.SCHED_BATCH}
    assert {os.sched_getscheduler(row["pid"]) for row in engine.status()["processes"]} == {os.SCHED_OTHER}


def test_children_of_an_engine_that_was_started_with_another_policy_keep_it(site):
    engine = site.engine()

    def start():
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        engine.start()

    thread = threading.Thread(target=start)  # of its own, as a thread has its policy, and may not be allowed to go back
    thread.start()
    thread.join()
    assert {os.sched_getscheduler(row["pid"]) for row in engine.children()} == {os.SCHED_IDLE}


def test_a_child_has_its_own_session_no_stdin_and_few_descriptors(up):
    facts = up.get("facts")
    assert facts["session"]
    assert facts["stdin"] == "/dev/null"
    assert facts["parent"] == up.engines[0].pid
    sockets = [name for name in facts["fds"] if name.startswith("socket:")]
    assert len(sockets) == 2, facts["fds"]


def test_engine_variables_are_not_seen_by_tasks(site):
    site.engine(env={"ENGINE_WORKER_LOG_LEVEL": "DEBUG"}).start()
    assert set(site.get("environment")) <= {"ENGINE_CONFIG"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_lets_running_tasks_finish_and_returns_the_others(site, number):
    engine = site.engine(worker='shutdown_timeout = "20s"').start()
    for key in range(6):
        site.send("ledger", key, 0.5)
    wait_for(lambda: len(site.starts()) >= 2, "two tasks to run")
    engine.signal(number)
    assert engine.wait() == 0
    engine.assert_nothing_left()
    assert site.starts() == site.ends()
    site.engine().start()
    wait_for(lambda: len(site.ends()) == 6, "the others to be done by the next engine")
    assert set(site.starts().values()) == {1}


def test_term_to_the_whole_group_is_a_drain_not_a_massacre(site):
    engine = site.engine().start(own_group=True)
    results = [site.send("ledger", key, 0.5) for key in range(2)]
    wait_for(lambda: len(site.starts()) == 2, "both to run")
    os.killpg(engine.pid, signal.SIGTERM)
    assert engine.wait() == 0
    assert [result.get(timeout=5) for result in results] == [0, 1]
    engine.assert_nothing_left()


def test_what_outlasts_the_shutdown_is_interrupted_and_given_back_uncounted(site):
    engine = site.engine(worker='shutdown_timeout = "0.2s"').start()
    site.send("ledger", 1, 600)
    wait_for(lambda: len(site.starts()) == 1, "it to run")
    assert engine.stop() == 0
    engine.assert_nothing_left()
    site.engine().start()
    wait_for(lambda: site.starts()["1"] == 2, "it to run again")
    assert [words[3] for words in site.ledger() if words[0] == "S"] == ["1", "1"], "the delivery was not counted"


@pytest.mark.parametrize("numbers", [(signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)])
def test_a_quick_stop_does_not_wait(site, numbers):
    engine = site.engine(worker='shutdown_timeout = "600s"').start()
    site.send("ledger", 1, 600)
    wait_for(lambda: len(site.starts()) == 1, "it to run")
    for number in numbers:
        engine.signal(number)
        wait_for(lambda: "draining" in engine.log, "the signal to be heard")
    assert engine.wait() == 0
    engine.assert_nothing_left()


def test_a_task_that_will_not_end_is_killed_at_a_quick_stop_and_the_status_says_so(site):
    engine = site.engine().start()
    site.send("spin_in_c")
    wait_for(site.ledger, "it to run")
    engine.signal(signal.SIGQUIT)
    assert engine.wait() == 1
    assert "1 running, to be interrupted now" in engine.log
    engine.assert_nothing_left()


def test_a_second_engine_of_the_same_name_is_refused(up):
    second = up.engine()
    second.log_path = up.folder / "second.log"
    second.start(wait=False)
    assert second.wait() == 78
    assert "is running (pid" in second.log
    assert "Traceback" not in second.log
    assert up.get("add", 1, 1) == 2
    up.engines.remove(second)


def test_a_stale_socket_is_replaced(site):
    site.engine().start().kill_tree()
    assert list(site.folder.glob("run/*.sock"))
    site.engine().start()
    assert site.get("add", 1, 1) == 2


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ("import nowhere_to_be_found\n", "nowhere_to_be_found"),
        ("def broken(:\n", "tasks.py"),
        ("x = 1\n", "Engine"),
        ("raise RuntimeError('not today')\n", "not today"),
        ("import sys\nsys.exit(3)\n", "tasks"),
        (
            "from engine import Engine\napp = Engine('t')\n@app.on_child_start\ndef start():\n    1 / 0\n",
            "ZeroDivisionError",
        ),
    ],
)
def test_an_app_that_does_not_import_or_start_is_one_line_and_status_78(site, tasks, expected):
    (site.folder / "tasks.py").write_text(tasks)
    engine = site.engine().start(wait=False)
    assert engine.wait() == 78
    assert expected in engine.log
    engine.assert_nothing_left()


@pytest.mark.parametrize("tasks", ["import nowhere_to_be_found\n", "def broken(:\n"])
def test_no_traceback_for_an_app_that_does_not_import(site, tasks):
    (site.folder / "tasks.py").write_text(tasks)
    engine = site.engine().start(wait=False)
    assert engine.wait() == 78
    assert "Traceback" not in engine.log


def test_an_unwritable_database_is_one_line_and_a_status(site):
    site.url = "sqlite:////proc/nowhere/engine.db"
    engine = site.engine().start(wait=False)
    assert engine.wait() in (75, 78)
    assert "/proc/nowhere" in engine.log
    assert "Traceback" not in engine.log
    engine.assert_nothing_left()


@pytest.mark.parametrize("section", ["broker", "results"])
def test_a_server_that_does_not_answer_is_named_by_its_section(site, section):
    port = 1  # reserved: nobody listens there
    if section == "broker":
        site.url = f"redis://127.0.0.1:{port}/0"
    engine = site.engine(results=f"redis://127.0.0.1:{port}/0").start(wait=False)
    assert engine.wait() == 75
    assert f"[{section}] redis at 127.0.0.1:1: Connection refused (an engine starts once" in engine.log


def test_children_that_die_at_their_start_are_given_up_after_a_while(site):
    text = (site.folder / "tasks.py").read_text()
    (site.folder / "tasks.py").write_text(text + "\n@app.on_child_start\ndef start():\n    os._exit(9)\n")
    engine = site.engine().start(wait=False)
    assert engine.wait(60) == 70
    assert "children die before they are ready" in engine.log
    assert engine.log.count("died before it was ready") <= 14
    engine.assert_nothing_left()


def test_without_preload_each_child_imports_the_app(site):
    engine = site.engine(worker="preload = false").start()
    assert site.get("add", 20, 22) == 42
    assert engine.stop() == 0
    engine.assert_nothing_left()


def test_a_signal_storm_does_no_harm(up):
    engine = up.engines[0]
    template = engine.pid_of("template")
    for _ in range(2000):
        engine.signal(signal.SIGCHLD)
        os.kill(template, signal.SIGTERM)
        os.kill(template, signal.SIGHUP)
    assert up.get("add", 1, 2) == 3
    for _ in range(500):
        engine.signal(signal.SIGHUP)
    assert up.get("add", 1, 2) == 3
    for _ in range(100):
        engine.signal(signal.SIGTERM)
    assert engine.wait() == 0
    engine.assert_nothing_left()


def test_status_tells_what_runs_for_how_long(up):
    engine = up.engines[0]
    result = up.send("ledger", 1, 600)
    (row,) = wait_for(lambda: engine.running("tasks.ledger"), "it to run")
    assert row["id"] == result.id
    assert row["seconds"] >= 0
    assert engine.status()["state"] == "running"


def test_unknown_and_broken_requests_are_answered_not_obeyed(up):
    engine = up.engines[0]
    assert engine.ask("dance") == {
        "ok": False,
        "error": "unknown verb 'dance'; there are: ping, status, stop, quit, reload, relay",
    }
    path = next(engine.folder.glob("run/*.sock"))
    for data in (b"\xff\xfe", b"[]", b"{}", b'{"verb": 7}', b"x" * 60000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(path))
            sock.send(data)
            assert b'"ok": false' in sock.recv(65536)
    assert engine.ask("ping")["ok"]


def test_more_children_than_descriptors_allow_is_one_line(site):
    engine = site.engine(concurrency=4000)
    limit = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (1024, 1024))"
    (site.folder / "sitecustomize.py").write_text(limit)
    engine.start(wait=False)
    assert engine.wait() == 78
    assert "4000 children need" in engine.log
    assert "Traceback" not in engine.log


def test_an_app_of_thousands_of_tasks_starts(site):
    with open(site.folder / "tasks.py", "a") as file:
        file.write("\nfor number in range(4000):\n")
        file.write("    app.task(name=f'package.module.a_task_with_a_rather_long_name_{number}')(lambda: number)\n")
    site.engine().start()
    assert site.get("add", 1, 2) == 3


def test_a_limit_for_a_task_that_does_not_exist_is_warned_of(site):
    engine = site.engine(rest='[tasks."tasks.ad"]\ntime_limit = "5s"').start()
    warning = 'template: [tasks."tasks.ad"]: the app has no such task, did you mean "tasks.add"?'
    wait_for(lambda: warning in engine.log, "the warning")


@pytest.mark.parametrize("preload", ["true", "false"])
def test_serializers_that_do_not_exist_are_refused(site, preload):
    with open(site.folder / "tasks.py", "a") as file:
        file.write("\napp.task(name='odd', serializer='yaml')(lambda: 1)\n")
    engine = site.engine(worker=f'preload = {preload}\naccept = ["json", "picle"]').start(wait=False)
    assert engine.wait() == 78
    assert """[worker] accept: no serializer 'picle', did you mean "pickle"?""" in engine.log
    assert "serializer of odd: no serializer 'yaml': there are json, msgpack, pickle; others" in engine.log
    assert "Traceback" not in engine.log


def test_the_end_of_its_terminal_ends_it_and_hup_on_a_terminal_reloads_it(site):
    ours, theirs = os.openpty()
    engine = site.engine().start(stderr=theirs)
    os.close(theirs)
    engine.process.send_signal(signal.SIGHUP)
    wait_for(lambda: engine.status()["reload"]["state"] == "done", "the reload")
    os.close(ours)
    engine.process.send_signal(signal.SIGHUP)
    assert engine.wait() == 0
    engine.assert_nothing_left()


def test_at_debug_each_end_is_a_line(site):
    engine = site.engine(worker='log_level = "DEBUG"').start()
    result = site.send("add", 1, 2)
    assert result.get(timeout=20) == 3
    wait_for(lambda: re.search(rf"DEBUG .* SUCCESS after 0\.\d+ s \[tasks.add {result.id}\]", engine.log), "the line")
