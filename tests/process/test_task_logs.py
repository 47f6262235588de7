"""What tasks log, in the words of an app that configures logging itself."""

import subprocess
import sys
import textwrap

from engine.testing.harness import EngineProcess, toml, wait_for

APP = """
import logging

from engine import Engine

app = Engine("test")
make = logging.getLogRecordFactory()


def with_tenant(*args, **kwargs):
    record = make(*args, **kwargs)
    record.tenant = "acme"
    return record


logging.setLogRecordFactory(with_tenant)
form = "MINE %(tenant)s %(task_name)s/%(task_id)s: %(message)s"
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter(form, defaults={"task_id": "-", "task_name": "-", "tenant": "-"}))
logging.getLogger("shop").addHandler(handler)
logging.getLogger("shop").setLevel("INFO")


@app.on_child_start
def connect():
    logging.getLogger("shop").info("connected")


@app.task
def work():
    logging.getLogger("shop").info("worked")
"""


def test_an_apps_own_formatter_has_the_task_and_its_record_factory_is_kept(tmp_path):
    (tmp_path / "tasks.py").write_text(textwrap.dedent(APP))
    engine = EngineProcess(tmp_path, toml("tasks:app", concurrency=1))
    try:
        engine.start()
        words = ["send", "tasks.work", "--id", "number-7", "-c", str(engine.config)]
        command = [sys.executable, "-m", "engine.cli.main", *words]
        subprocess.run(command, cwd=tmp_path, env=engine.env, check=True, capture_output=True, timeout=30)
        wait_for(lambda: "MINE acme tasks.work/number-7: worked" in engine.log, "the task's line")
        assert "MINE acme -/-: connected" in engine.log
    finally:
        engine.close()
