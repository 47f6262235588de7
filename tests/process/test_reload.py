"""HUP: new code takes over when it is ready, and not a moment before."""

import signal

from engine.testing.harness import wait_for


def edit(site, old: str, new: str) -> None:
    path = site.folder / "tasks.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_new_code_runs_and_no_task_is_lost(up):
    engine = up.engines[0]
    results = [up.send("ledger", key, 0.01) for key in range(200)]
    edit(up, "VERSION = 1", "VERSION = 22")
    engine.signal(signal.SIGHUP)
    wait_for(lambda: up.get("version") == 22, "the new code")
    assert [result.get(timeout=30) for result in results] == list(range(200))
    assert set(up.starts().values()) == {1}
    wait_for(lambda: {row["generation"] for row in engine.children()} == {2}, "the old children to leave")
    assert engine.stop() == 0
    engine.assert_nothing_left()


def test_a_long_task_finishes_under_the_old_code(up):
    engine = up.engines[0]
    long = up.send("ledger", 1, 1.5)
    wait_for(up.starts, "it to run")
    edit(up, "VERSION = 1", "VERSION = 22")
    engine.signal(signal.SIGHUP)
    wait_for(lambda: up.get("version") == 22, "the new code")
    processes = engine.status()["processes"]
    assert all(row["pid"] for row in processes), processes
    assert long.get(timeout=10) == 1
    assert up.starts() == {"1": 1}


def test_code_that_does_not_import_changes_nothing_and_the_log_says_why(up):
    engine = up.engines[0]
    before = {row["pid"] for row in engine.children()}
    edit(up, "VERSION = 1", "VERSION = nonsense_that_is_not_defined")
    engine.signal(signal.SIGHUP)
    wait_for(lambda: "the old code keeps running" in engine.log, "the reload to fail")
    assert "nonsense_that_is_not_defined" in engine.log
    assert engine.status()["reload"]["state"] == "failed"
    assert "nonsense_that_is_not_defined" in engine.status()["reload"]["why"]
    assert up.get("version") == 1
    assert {row["pid"] for row in engine.children()} == before
    edit(up, "VERSION = nonsense_that_is_not_defined", "VERSION = 3")
    engine.signal(signal.SIGHUP)
    wait_for(lambda: up.get("version") == 3, "mended code to run after the next reload")


def test_code_whose_children_do_not_start_changes_nothing(up):
    engine = up.engines[0]
    edit(up, "VERSION = 1", "VERSION = 2\n\n\n@app.on_child_start\ndef start():\n    raise RuntimeError('no pool')\n")
    engine.signal(signal.SIGHUP)
    wait_for(lambda: "the old code keeps running" in engine.log, "the reload to fail")
    assert "no pool" in engine.log
    assert up.get("version") == 1
    assert engine.stop() == 0
    engine.assert_nothing_left()


def test_a_changed_broker_url_is_refused(up):
    engine = up.engines[0]
    text = engine.config.read_text()
    engine.config.write_text(text.replace("engine.db", "other.db"))
    engine.signal(signal.SIGHUP)
    wait_for(lambda: "restart needed" in engine.log, "the refusal")
    assert up.get("add", 1, 2) == 3


def test_task_settings_are_read_again(up):
    engine = up.engines[0]
    text = engine.config.read_text()
    engine.config.write_text(text + '\n[tasks."tasks.spin"]\ntime_limit = "0.3s"\n')
    engine.signal(signal.SIGHUP)
    wait_for(lambda: "reloaded" in engine.log, "the reload")
    result = up.send("spin")
    assert type(result.get(timeout=10, propagate=False)).__name__ == "TimeLimitExceeded"


def test_settings_of_a_reload_that_failed_are_not_in_force(up):
    engine = up.engines[0]
    edit(up, "VERSION = 1", "VERSION = nonsense_that_is_not_defined")
    text = engine.config.read_text()
    engine.config.write_text(text.replace('dead_after = "1s"', 'dead_after = "1s"\nshutdown_timeout = "0.1s"'))
    engine.signal(signal.SIGHUP)
    wait_for(lambda: engine.status()["reload"]["state"] == "failed", "the reload to fail")
    long = up.send("ledger", 1, 1.0)
    wait_for(up.starts, "it to run")
    assert engine.stop() == 0
    assert long.get(timeout=5) == 1, "it had the time of the old settings"
