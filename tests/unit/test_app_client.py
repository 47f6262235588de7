"""Connections: opened late, not carried over a fork; and the modules of an app."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from app_fakes import Bench, DictResults, ListTransport

import engine
from engine import ConfigError, Engine
from engine.app.calls import new_id, origin
from engine.contract import Batch


@pytest.fixture
def opened(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[ListTransport]:
    """Transports, as they are opened by the app."""
    found: list[ListTransport] = []

    def make(settings: Any) -> ListTransport:
        found.append(ListTransport())
        return found[-1]

    monkeypatch.setattr("engine.app.connect.transport_for", make)
    monkeypatch.setattr("engine.app.connect.results_for", lambda settings: DictResults())
    return found


def test_nothing_is_opened_before_the_first_send(opened: list[ListTransport]) -> None:
    app = Engine("x", broker="list://")
    task = app.task(name="t")(lambda: None)
    assert opened == []
    task.delay()
    task.delay()
    assert len(opened) == 1
    app.close()
    task.delay()
    assert len(opened) == 2


def test_a_fork_opens_its_own(opened: list[ListTransport]) -> None:
    app = Engine("x", broker="list://")
    task = app.task(name="t")(lambda: None)
    task.delay()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            task.delay()
            first, second = opened[0].batches[-1], opened[1].batches[-1]
            assert isinstance(first, Batch)
            assert isinstance(second, Batch)
            ok = first.producer != second.producer and len(opened[0].envelopes) == 1
            ok = ok and origin().startswith(f"{os.getpid()}@")
            os.write(write, b"ok" if ok else b"no")
            status = 0
        finally:
            os._exit(status)
    os.waitpid(pid, 0)
    assert os.read(read, 2) == b"ok"
    os.close(read)
    os.close(write)


def test_a_fork_while_another_thread_sends(opened: list[ListTransport]) -> None:
    """The child gets locks of its own: the parent's may be held by a thread that is not there."""
    app = Engine("x", broker="list://")
    task = app.task(name="t")(lambda: None)
    inside, release = threading.Event(), threading.Event()

    def hold() -> None:
        def call(transport: Any) -> None:
            inside.set()
            release.wait(10)

        app.client.broker(call)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    pid = os.fork()
    if pid == 0:
        try:
            task.delay()
        finally:
            os._exit(0 if len(opened) == 2 else 1)
    _, status = os.waitpid(pid, 0)
    release.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_process_that_a_task_forks_does_not_use_the_link_of_the_child(opened: list[ListTransport]) -> None:
    app = Engine("x", broker="list://")
    task = app.task(name="t")(lambda: None)
    given = ListTransport()
    app.connect_with(given, None)
    task.delay()
    assert (len(given.envelopes), opened) == (1, [])
    pid = os.fork()
    if pid == 0:
        try:
            task.delay()
        finally:
            os._exit(0 if len(given.envelopes) == 1 and len(opened[0].envelopes) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


class Closing(DictResults):
    """Counts how many are open."""

    open = 0

    def __init__(self) -> None:
        super().__init__()
        Closing.open += 1

    def close(self) -> None:
        Closing.open -= 1


def test_a_result_backend_is_lent_to_one_thread_and_used_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.app.connect.results_for", lambda settings: Closing())
    client = Engine("x", broker="list://", backend="list://").client
    with client.results() as first:
        with client.results() as second:
            assert second is not first
        with client.results() as again:
            assert again is second
    assert Closing.open == 2
    with pytest.raises(KeyError), client.results() as left:
        raise KeyError  # perhaps in the middle of an answer
    assert Closing.open == 1
    with client.results() as another:
        assert another is not left
    client.close()
    assert Closing.open == 0
    with client.results() as fresh:
        assert fresh not in (first, second)
    client.close()
    client.close()
    assert Closing.open == 0


def test_threads_send_one_at_a_time(opened: list[ListTransport]) -> None:
    app = Engine("x", broker="list://")
    task = app.task(name="t")(lambda: None)
    threads = [threading.Thread(target=lambda: [task.delay() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    [transport] = opened
    assert [batch.number for batch in transport.batches if batch] == list(range(1, 201))
    assert len({envelope.id for envelope in transport.envelopes}) == 200


def test_ids_are_unique_and_short() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(id) for id in ids} == {36}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``shop`` with tasks, and one ``plain`` without."""
    for name in ("shop", "plain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    text = "from engine import shared_task\n@shared_task\ndef bill():\n    return 1\n"
    (tmp_path / "shop" / "tasks.py").write_text(text)
    (tmp_path / "shop" / "jobs.py").write_text(text)
    (tmp_path / "single.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield_modules = ("shop", "shop.tasks", "shop.jobs", "plain", "single")
    for name in yield_modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_the_modules_of_an_app(bench: Bench, package: Path) -> None:
    app = Engine("x", include=["shop.jobs"])
    app.autodiscover_tasks(["shop", "plain", "single"])
    app.autodiscover_tasks(lambda: ["shop"], related_name="jobs")
    app.autodiscover_tasks(["single"], related_name=None)
    assert app.import_tasks() == ["shop.jobs", "shop.tasks", "single"]
    assert {"shop.tasks.bill", "shop.jobs.bill"} <= set(app.tasks)


def test_modules_that_do_not_import(bench: Bench, package: Path) -> None:
    (package / "shop" / "tasks.py").write_text("import nothing_like_it\n")
    app = Engine("x")
    app.autodiscover_tasks(["shop"])
    with pytest.raises(ModuleNotFoundError, match="nothing_like_it"):
        app.import_tasks()
    with pytest.raises(ModuleNotFoundError):
        Engine("y", include="no.such.module").import_tasks()


def test_the_packages_of_django(bench: Bench, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Engine("x")
    app.autodiscover_tasks()
    with pytest.raises(ConfigError, match="Django is not set up"):
        app.import_tasks()
    apps = SimpleNamespace(get_app_configs=lambda: [SimpleNamespace(name="shop"), SimpleNamespace(name="plain")])
    monkeypatch.setitem(sys.modules, "django.apps", SimpleNamespace(apps=apps))
    assert app.import_tasks() == ["shop.tasks"]


def test_the_version_is_that_of_the_distribution() -> None:
    import tomllib

    project = tomllib.loads((Path(engine.__file__).parents[1] / "pyproject.toml").read_text())
    assert engine.__version__ == project["project"]["version"]


def test_everything_that_is_exported_is_there() -> None:
    for name in engine.__all__:
        assert getattr(engine, name) is not None


def test_importing_the_engine_imports_no_client_library() -> None:
    import subprocess

    heavy = "redis pika click asyncio sqlite3 tomllib engine.app.plugins django pydantic"
    code = f"import sys, engine; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
