"""The porting recipe of docs/celery.md, followed on a small project as Celery users write it: semantics included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.testing.harness import EngineProcess, toml

PAGE = Path(__file__).parents[2] / "docs/celery.md"
FILES = {
    "shop/__init__.py": 'from .celery import app as celery_app\n__all__ = ("celery_app",)\n',
    "shop/celery.py": """
import os
from celery import Celery

app = Celery("shop", broker="redis://localhost:6379/0", backend="redis://localhost:6379/1")
app.conf.task_acks_late = True
app.conf.task_routes = {"shop.tasks.thumbnail": {"queue": "images"}}
app.autodiscover_tasks(["shop"])
""",
    "shop/tasks.py": """
from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_task_logger

logger = get_task_logger(__name__)


@shared_task(bind=True, max_retries=5, default_retry_delay=0.1)
def charge(self, order, amount):
    logger.info("charging %s", order)
    try:
        if self.request.retries < 2:
            raise ConnectionError("the bank is away")
    except ConnectionError as exc:
        raise self.retry(exc=exc)
    return {"order": order, "amount": amount}


@shared_task(soft_time_limit=0.5, time_limit=20)
def thumbnail(path):
    try:
        while True:
            pass
    except SoftTimeLimitExceeded:
        return f"half of {path}"


@shared_task
def receipt(result, to):
    from celery.exceptions import TaskRevokedError
    return f"{to}: {result['amount']}"
""",
    "views.py": """
from celery.result import AsyncResult
from shop.tasks import charge, receipt, thumbnail

result = charge.apply_async((1,), {"amount": 5}, link=receipt.s("ann"))
print(result.get(timeout=20), result.state, AsyncResult(result.id).retries)
print(thumbnail.delay("a.png").get(timeout=20))
""",
}
BYSTANDERS = [".venv/lib/site-packages/celery/bin/worker.py", "venv/lib/other.py"]
"""What lies in the folder and is not the project's."""
FOREIGN = "from celery import Celery\n"
REST = '[routes]\n"shop.tasks.thumbnail" = "images"\n'


def recipe() -> str:
    """Returns the commands of the recipe's first step."""
    (block,) = re.findall(r"^ +```sh\n(.*?)^ +```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return block


def engine(folder: Path, *words: str, env: dict[str, str]) -> str:
    """Runs a program of the project; returns what it wrote."""
    command, environment = [sys.executable, *words], {**os.environ, **env}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> EngineProcess:
    """The project with its imports changed, and a configuration."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in BYSTANDERS:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(FOREIGN)
    for command in ("git init -q", "git add shop views.py", recipe()):
        subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, timeout=30)
    made = EngineProcess(tmp_path, toml("shop.celery:app", worker='queues = ["default", "images"]', rest=REST))
    yield made
    made.close()


def test_the_recipe_leaves_alone_what_git_does_not_know(project):
    assert [(project.folder / name).read_text() for name in BYSTANDERS] == [FOREIGN] * len(BYSTANDERS)


def test_an_import_inside_a_function_is_changed_too(project):
    assert "    from engine import TaskRevokedError" in (project.folder / "shop/tasks.py").read_text()


def test_a_celery_project_that_follows_the_recipe_runs(project):
    check = ["-m", "engine.cli.main", "check", "-c", str(project.config)]
    code = project.folder / "shop/celery.py"
    for setting, place in [("task_acks_late", "acks_late = true"), ("task_routes", "[routes]")]:
        told = engine(project.folder, *check, env=project.env)
        assert f"app.conf.{setting}" in told
        assert place in told, "it says which line to write"
        code.write_text("".join(line for line in code.read_text().splitlines(True) if f"conf.{setting}" not in line))
    assert "3 tasks" in engine(project.folder, *check, env=project.env)
    project.start()
    lines = engine(project.folder, "views.py", env={**project.env, "ENGINE_CONFIG": str(project.config)}).splitlines()
    assert lines == ["{'order': 1, 'amount': 5} SUCCESS 2", "half of a.png"]
    assert project.stop() == 0
