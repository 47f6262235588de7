"""A Django project: its web side as processes of their own, its worker as a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.testing.harness import EngineProcess, wait_for

pytest.importorskip("django")

PROJECT = Path(__file__).with_name("django_project")
ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(PROJECT), str(ROOT), str(ROOT / "transports"), str(ROOT / "plugins")]
CONFIG = """
[engine]
name = "test"
app = "engine_django.app"
runtime_dir = "{folder}/run"

[worker]
concurrency = 2
queues = ["notes", "default"]
dead_after = "1s"
"""
SET_UP = "import django, json, engine; django.setup()\nfrom notes import tasks\nfrom notes.models import Note\n"


class Site:
    """A folder with a database, and the project's processes in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")}
        self.env = {**names, "PYTHONPATH": os.pathsep.join(PATHS), "DJANGO_SETTINGS_MODULE": "mysite.settings"}
        self.engine: EngineProcess | None = None

    def python(self, *args: str, status: int = 0, **env: str) -> str:
        """Runs a Python program of the project; returns what it prints."""
        done = subprocess.run(
            [sys.executable, *args],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    def web(self, program: str, **env: str) -> Any:
        """Runs what a view would; returns the value (as JSON) that it prints."""
        return json.loads(self.python("-c", SET_UP + program, **env))

    def start(self) -> EngineProcess:
        """Starts the worker."""
        self.engine = EngineProcess(self.folder, CONFIG)
        self.engine.env = self.env
        return self.engine.start()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the project's tables, made once."""
    folder = tmp_path_factory.mktemp("database")
    Site(folder).python(str(PROJECT / "manage.py"), "migrate", "--run-syncdb", "-v", "0")
    return folder / "db.sqlite3"


@pytest.fixture
def site(tmp_path: Path, database: Path) -> Iterator[Site]:
    """The project with an empty database; its engine is not started."""
    (tmp_path / "db.sqlite3").write_bytes(database.read_bytes())
    made = Site(tmp_path)
    yield made
    if made.engine is not None:
        made.engine.close()


def test_a_worker_runs_the_tasks_of_installed_apps(site: Site) -> None:
    engine = site.start()
    program = """
note = Note.objects.create(text="hello")
text = tasks.count.delay(note.id).get(timeout=20)
note.refresh_from_db()
with __import__("contextlib").suppress(ValueError):
    tasks.fail_in_transaction.delay().get(timeout=20)
print(json.dumps({
    "text": text,
    "by": note.counted_by,
    "left": Note.objects.count(),
    "inherited": [tasks.inherited.delay().get(timeout=20) for _ in range(4)],
    "born": tasks.born_in.delay().get(timeout=20),
    "queries": [tasks.queries.delay().get(timeout=20) for _ in range(4)],
}))
"""
    found = site.web(program)
    assert found["text"] == "hello"
    assert found["by"] in [row["pid"] for row in engine.children()]
    assert found["left"] == 1
    assert found["inherited"] == [[]] * 4, "a connection was inherited, or left open"
    assert found["queries"] == [1] * 4, "the log of queries grows from task to task"
    imported_by, parent, child = found["born"]
    assert imported_by == engine.pid_of("template")
    assert parent == engine.pid
    assert child not in (imported_by, parent)
    assert engine.stop() == 0


def test_a_task_sent_on_commit_finds_what_was_written(site: Site) -> None:
    site.start()
    program = """
from django.db import transaction
with transaction.atomic():
    note = Note.objects.create(text="hello")
    tasks.count.delay_on_commit(note.id)
    tasks.count.apply_async_on_commit((note.id,), task_id="second", using="default")
    before = engine.AsyncResult("second").known
engine.AsyncResult("second").get(timeout=20)
try:
    with transaction.atomic():
        tasks.count.apply_async_on_commit((note.id,), task_id="third")
        raise KeyError
except KeyError:
    pass
try:
    tasks.count.delay_on_commit()
except TypeError as error:
    refused = str(error)
note.refresh_from_db()
print(json.dumps([before, note.counted_by, engine.AsyncResult("third").known, refused]))
"""
    before, counted_by, rolled_back, refused = site.web(program)
    assert before is False
    assert counted_by
    assert rolled_back is False
    assert "key" in refused


def test_the_settings_of_the_project_are_the_engines(site: Site) -> None:
    program = """
settings = engine.app.registry.current_engine().settings
print(json.dumps([settings.broker.url, tasks.count.queue, tasks.count.route.queue, tasks.count.acks_late]))
"""
    assert site.web(program) == ["sqlite:///engine.db", "default", "notes", True]
    assert site.web(program, ENGINE_BROKER_URL="memory://")[0] == "memory://"


def _with_settings(site: Site, line: str) -> dict[str, str]:
    (site.folder / "other.py").write_text(f"from mysite.settings import *\n{line}\n")
    paths = os.pathsep.join([str(site.folder), *PATHS])
    return {"DJANGO_SETTINGS_MODULE": "other", "PYTHONPATH": paths}


def test_tests_of_a_project_may_run_tasks_at_once(site: Site) -> None:
    env = _with_settings(site, 'ENGINE = {"task_always_eager": True}')
    program = """
from django.db import connection
note = Note.objects.create(text="hello")
held = connection.connection
text = tasks.count.delay(note.id).get()
print(json.dumps([text, connection.connection is held]))
"""
    assert site.web(program, **env) == ["hello", True]


def test_a_test_may_change_whether_tasks_run_at_once(site: Site) -> None:
    program = """
from django.test import override_settings
app = engine.app.registry.current_engine()
seen = [app.task_always_eager]
with override_settings(ENGINE={"task_always_eager": True, "task_eager_propagates": True}):
    note = Note.objects.create(text="hello")
    seen += [tasks.count.delay(note.id).get(), app.task_eager_propagates]
try:
    with override_settings(CELERY_TASK_ALWAYS_EAGER=True):
        seen.append("sent")
except engine.ConfigError as error:
    seen.append(str(error))
print(json.dumps([*seen, app.task_always_eager, app.task_eager_propagates]))
"""
    before, text, propagates, refused, *after = site.web(program)
    assert (before, text, propagates, after) == (False, "hello", True, [False, False])
    assert 'override_settings(ENGINE={"task_always_eager": True})' in refused


@pytest.mark.parametrize("name", ["CELERY_TASK_ALWAYS_EAGER", "CELERY_ALWAYS_EAGER"])
def test_celerys_settings_for_tests_are_not_passed_over(site: Site, name: str) -> None:
    error = site.python("-c", SET_UP, status=1, **_with_settings(site, f"{name} = True"))
    assert f'settings.{name} is not read here: write ENGINE = {{..., "task_always_eager": True}}' in error


def test_settings_that_are_left_of_celery_are_warned_of(site: Site) -> None:
    lines = "CELERY_TASK_TIME_LIMIT = 30\nCELERYD_CONCURRENCY = 2\nCELERY_BEAT_SCHEDULE = {}\nCELERY_OF_OTHERS = 1"
    env = {**site.env, **_with_settings(site, lines)}
    command = [sys.executable, str(PROJECT / "manage.py"), "check"]
    done = subprocess.run(command, cwd=site.folder, env=env, capture_output=True, text=True, timeout=60, check=True)
    said = done.stdout + done.stderr
    for name, hint in [
        ("CELERY_TASK_TIME_LIMIT", "[tasks] time_limit = 30"),
        ("CELERYD_CONCURRENCY", "[worker] concurrency = 2"),
        ("CELERY_BEAT_SCHEDULE", "let cron run"),
    ]:
        assert f"settings.{name} is not read by the engine" in said
        assert hint in said
    assert "CELERY_OF_OTHERS" not in said


def test_the_transaction_of_a_test_outlives_eager_tasks(site: Site) -> None:
    program = """
from django.db import connection, transaction
from engine.testing import eager
from engine.testing.apps import app_under_test
with transaction.atomic():
    note = Note.objects.create(text="hello")
    held = connection.connection
    with eager(app_under_test()) as made:
        text = tasks.count.delay(note.id).get()
    same = connection.connection is held
    transaction.set_rollback(True)
print(json.dumps([text, same, Note.objects.count(), [ran.task for ran in made.runs]]))
"""
    assert site.web(program) == ["hello", True, 0, ["notes.tasks.count"]]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('ENGINE = {"brokr": "x"}', "settings.ENGINE"),
        ('ENGINE = {"acks_late": "perhaps"}', "settings.ENGINE"),
        ('ENGINE = {"worker": {"concurrency": 2}}', "belongs into the worker's TOML file"),
        ("ENGINE = 3", "must be a dict, not int"),
    ],
)
def test_what_is_wrong_with_the_settings_is_said(site: Site, line: str, says: str) -> None:
    error = site.python("-c", SET_UP, status=1, **_with_settings(site, line))
    assert "engine.errors.ConfigError: " in error
    assert says in error


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"DJANGO_SETTINGS_MODULE": ""}, "DJANGO_SETTINGS_MODULE is not set"),
        ({"DJANGO_SETTINGS_MODULE": "no.such"}, "DJANGO_SETTINGS_MODULE=no.such"),
    ],
)
def test_without_settings_the_worker_says_what_to_set(site: Site, env: dict[str, str], says: str) -> None:
    error = site.python("-m", "engine.cli.main", "start", "--app", "engine_django.app", status=78, **env)
    assert says in error
    assert "Traceback" not in error


def test_a_project_may_make_its_own_app(site: Site) -> None:
    (site.folder / "shop").mkdir()
    (site.folder / "shop" / "__init__.py").write_text("from shop.engine import app\n")
    (site.folder / "shop" / "settings.py").write_text("from mysite.settings import *\n")
    (site.folder / "shop" / "engine.py").write_text(
        "import os\n"
        "from engine_django import Engine\n\n"
        'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")\n'
        'app = Engine("shop", track_started=True)\n\n\n'
        "def mine(call):\n"
        "    os.write(2, b'mine is around\\n')\n"
        "    return call()\n\n\n"
        "app.around = mine\n"
    )
    del site.env["DJANGO_SETTINGS_MODULE"]
    site.env["PYTHONPATH"] = os.pathsep.join([str(site.folder), *PATHS])
    site.engine = EngineProcess(site.folder, CONFIG.replace("engine_django.app", "shop.engine"))
    site.engine.env = site.env
    site.engine.start()
    program = """
from shop import app
assert engine.app.registry.current_engine() is app and tasks.count.track_started
print(json.dumps(tasks.inherited.delay().get(timeout=20)))
"""
    assert site.web(program, DJANGO_SETTINGS_MODULE="shop.settings") == []
    wait_for(lambda: site.engine is not None and site.engine.is_running(), "the engine to be there still")
    assert "mine is around" in site.engine.log, "what the project has around its tasks is kept"
