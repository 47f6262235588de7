"""engine check: what it prints, finds, and exits with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playground import Ended, Engine

from engine.app import registry
from engine.cli import system
from engine.errors import BrokerUnavailable, ConfigError, TransportError

APP = "from engine import Engine\napp = Engine('shop')\n"
CONFIG = '[engine]\nname = "shop"\napp = "shop_app"\n[broker]\nurl = "memory://"\n'
POST = """
from engine.contract import Capabilities, ResultBackend, Transport, hookimpl
from engine.errors import BrokerUnavailable, ConfigError, TransportError

class Post(Transport):
    capabilities = Capabilities(delays=False, prioritises=False)
    def check(self):
        {check}
    def close(self): pass

Post.__abstractmethods__ = frozenset()

@hookimpl
def engine_transport(scheme):
    return Post if scheme == "post" else None
"""
Check = Callable[..., Ended]


@pytest.fixture
def check(engine: Engine, folder: Path) -> Iterator[Check]:
    """Runs ``engine check`` on an app and a configuration."""
    before = set(sys.modules)

    def run(*options: str, app: str = APP, config: str = CONFIG, **plugins: str) -> Ended:
        (folder / "shop_app.py").write_text(app)
        (folder / "worker.toml").write_text(config)
        for name, text in plugins.items():
            (folder / f"{name}.py").write_text(text)
        sys.modules.pop("shop_app", None)
        return engine("check", *options)

    with registry.isolated():
        yield run
    for name in set(sys.modules) - before:
        if name.startswith(("shop_app", "engine_plugin_post")):
            del sys.modules[name]


def _findings(ended: Ended) -> list[tuple[str, str, str]]:
    return [(found["level"], found["about"], found["text"]) for found in ended.json["findings"]]


def test_all_is_well(check: Check) -> None:
    ended = check(app=APP + "@app.task(acks_late=True)\ndef bill(): ...\n")
    assert (ended.status, ended.err) == (0, "")
    assert "configuration: worker.toml\n" in ended.out
    assert ["engine.app", '"shop_app"', "worker.toml:3"] in ended.lines
    assert ["worker.dead_after", '"30s"', "default"] in ended.lines
    assert ["tasks.max_retries", "3", "default"] in ended.lines
    assert "ok      app      shop_app: 1 task: shop_app.bill\n" in ended.out
    assert "ok      broker   memory:// lives inside the engine: `engine start` opens it\n" in ended.out
    assert "note    results  no [results] url" in ended.out


def test_as_json(check: Check) -> None:
    ended = check("--json")
    assert ended.json["settings"]["worker.queues"] == {"value": ["default"], "origin": "default"}
    assert ("ok", "app", "shop_app: 0 tasks: none") in _findings(ended)


def test_quiet_leaves_out_what_is_well(check: Check) -> None:
    out = check("-q", config=CONFIG + '[results]\nurl = "memory://"\n').out
    assert out == "note    broker   messages are gone when the engine ends; only this host reaches it\n"


@pytest.mark.parametrize(
    ("config", "about", "said"),
    [
        (CONFIG.replace("memory", "memmory"), "broker", 'did you mean "memory"?'),
        (CONFIG + "speed = 3\n", "broker", "worker.toml:6: [broker] speed: unknown key"),
        (CONFIG.replace("[broker]\nurl", "[results]\nurl"), "broker", "no broker: write url ="),
        (CONFIG + '[results]\nurl = "nowhere://"\n', "results", "no result backend for 'nowhere' is installed"),
        (CONFIG.replace("shop_app", "shop_ap"), "app", "[engine] app: no module 'shop_ap', did you mean"),
        (CONFIG + '[plugins]\nload = ["x.py"]\n', "plugins", "[plugins] load: x.py: no such file"),
        (CONFIG + '[plugins]\nenable = ["x"]\n', "plugins", "[plugins] enable: no plugin 'x' is installed"),
        (CONFIG + '[worker]\naccept = ["jason"]\n', "plugins", "no serializer 'jason', did you mean \"json\"?"),
    ],
)
def test_errors(check: Check, config: str, about: str, said: str) -> None:
    ended = check("--json", config=config)
    assert ended.status == 78
    errors = {(level, where): text for level, where, text in _findings(ended) if level == "error"}
    assert said in errors["error", about]


def test_all_errors_are_found_at_once(check: Check) -> None:
    config = '[engine]\napp = "nowhere"\n[broker]\nurl = "post://"\n[results]\nurl = "mail://"\n'
    levels = [level for level, _, _ in _findings(check("--json", config=config))]
    assert levels.count("error") == 3


@pytest.mark.parametrize(
    ("does", "level", "status", "said"),
    [
        ("return ['a', 'b']", "note", 0, "a"),
        ("raise BrokerUnavailable('nobody at post://')", "later", 75, "nobody at post://"),
        ("raise ConfigError('too old')", "error", 78, "too old"),
        ("raise TransportError('no access')", "error", 78, "no access"),
        ("return {}['x']", "error", 78, "post://me:***@box: KeyError: 'x'"),
    ],
)
def test_the_server_is_tried(check: Check, does: str, level: str, status: int, said: str) -> None:
    config = CONFIG.replace("memory://", "post://me:secret@box") + '[plugins]\nload = ["post.py"]\n'
    ended = check("--json", config=config, post=POST.format(check=does))
    assert ended.status == status
    assert (level, "broker", said) in _findings(ended)
    assert "secret" not in ended.out
    assert check("--no-connect", config=config, post=POST.format(check=does)).status == 0


def test_what_the_broker_cannot_do(check: Check) -> None:
    config = CONFIG.replace("memory://", "post://") + '[plugins]\nload = ["post.py"]\n'
    notes = {text for level, _, text in _findings(check("--json", config=config, post=POST.format(check="return ()")))}
    assert "countdown, eta and retries with a delay do not wait" in notes
    assert "priorities are ignored" in notes
    assert "serves this host only" in notes


def test_what_a_fork_would_break(check: Check) -> None:
    app = APP + (
        "import socket, threading\nhello = socket.socket()\nstop = threading.Event()\n"
        "thread = threading.Thread(target=stop.wait, name='pinger')\nthread.start()\n"
    )
    try:
        found = _findings(check("--json", app=app))
    finally:
        sys.modules["shop_app"].stop.set()
        sys.modules["shop_app"].thread.join()
        sys.modules["shop_app"].hello.close()
    warnings = [text for level, _, text in found if level == "warning"]
    assert warnings == [
        "the import starts a thread (pinger), which children do not have: start it in @app.on_child_start",
        "the import opens 1 socket, which all children would share: connect in @app.on_child_start",
    ]


def test_settings_that_do_not_fit_the_app(check: Check) -> None:
    app = APP + (
        "@app.task(queue='slow', acks_late=True)\ndef bill(): ...\n@app.task(serializer='pickle')\ndef post(): ...\n"
    )
    config = CONFIG + (
        '[tasks."shop_app.bil"]\nrate_limit = 3\n[tasks."shop_app.bill"]\nrate_limit = 3\n'
        '[routes]\n"mail.*" = "mail"\n"*.post" = "default"\n'
    )
    ended = check("--json", app=app, config=config)
    assert ended.status == 78
    elsewhere = "shop_app.bill go to the queue 'slow', from which this worker does not fetch ([worker] queues)"
    assert [row for row in _findings(ended) if row[1] in ("tasks", "routes")] == [
        ("warning", "tasks", '[tasks."shop_app.bil"]: the app has no such task, did you mean "shop_app.bill"?'),
        ("warning", "routes", '"mail.*" fits none of the app\'s tasks'),
        ("note", "tasks", "acks_late is off for shop_app.post: they are lost when their process dies"),
        ("error", "tasks", "shop_app.post is sent as pickle, which [worker] accept does not have: it would not run"),
        ("warning", "tasks", elsewhere),
    ], "and nothing is said of what fits"


@pytest.mark.parametrize(
    ("app", "config", "said"),
    [
        (
            "@app.task(serializer='jsn')\ndef post(): ...\n",
            "",
            "serializer of shop_app.post: no serializer 'jsn', did you",
        ),
        (
            "@app.task\ndef post(): ...\n",
            '[tasks]\nserializer = "yaml"\n',
            "[tasks] serializer: no serializer 'yaml': ",
        ),
        (
            "",
            '[worker]\naccept = ["json", "picle"]\n',
            "[worker] accept: no serializer 'picle', did you mean \"pickle\"?",
        ),
    ],
)
def test_serializers_that_do_not_exist(check: Check, app: str, config: str, said: str) -> None:
    ended = check("--json", app=APP + app, config=CONFIG + config)
    assert ended.status == 78
    [error] = [text for level, _, text in _findings(ended) if level == "error"]
    assert error.startswith(said)


def test_a_task_that_another_worker_accepts_is_no_error(check: Check) -> None:
    app = APP + "@app.task(queue='slow', serializer='pickle')\ndef post(): ...\n"
    assert check("--json", app=app).status == 0


def test_what_only_the_code_gives_is_shown(check: Check) -> None:
    app = APP.replace("'shop'", "'shop', broker='sqlite:///shop.db', result_expires='1h', max_retries=7")
    ended = check("--no-connect", app=app, config='[engine]\napp = "shop_app"\n[results]\nurl = "memory://"\n')
    assert ["tasks.max_retries", "7", "code"] in ended.lines
    assert ["results.expires", '"1h"', "code"] in ended.lines
    assert "is not heard" not in ended.out
    assert "sqlite:///" in next(words[1] for words in ended.lines if words[0] == "broker.url")
    assert ["engine.name", '"engine"', "default"] in ended.lines


def test_an_expiry_that_a_worker_does_not_hear_of(check: Check) -> None:
    app = APP.replace("'shop'", "'shop', result_expires='1h'")
    results = CONFIG + '[results]\nurl = "memory://"\n'
    said = 'Engine(result_expires=...) is not heard where the configuration names both URLs: write expires = "1h" under'
    assert said in check(app=app, config=results).out
    assert "is not heard" not in check(app=app, config=results + 'expires = "1d"').out


def test_pickle_is_warned_of(check: Check) -> None:
    found = _findings(check("--json", config=CONFIG + '[worker]\naccept = ["json", "pickle"]\n'))
    assert ("warning", "plugins", "[worker] accept has pickle: whoever can write to the broker runs any code") in found


def _fails() -> None:
    raise OSError(38, "Function not implemented")


def test_system_calls_that_are_missing_are_named(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(system.missing()) == []
    monkeypatch.setitem(system.CALLS, "pidfd_open", _fails)
    monkeypatch.setattr(system, "OLDEST", (99, 0))
    ended = check("-q")
    assert ended.status == 78
    assert "error   system   pidfd_open does not work here: Function not implemented (a container's" in ended.out
    assert "is older than 99.0" in ended.out


def test_elsewhere_than_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert list(system.missing()) == ["engine start needs Linux, and this is darwin: run it in a container"]


def test_too_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 1024))
    assert system.too_few_files(1) is None
    warning = system.too_few_files(100)
    assert warning is not None
    assert "`ulimit -n 1000`" in warning


def test_a_socket_that_cannot_be(check: Check, folder: Path) -> None:
    folder.chmod(0o755)
    config = CONFIG.replace("[broker]", f'runtime_dir = "{folder / ("x" * 120)}"\n[broker]')
    errors = [about for level, about, _ in _findings(check("--json", config=config)) if level == "error"]
    assert errors == ["socket"]


def test_errors_are_known() -> None:
    assert issubclass(BrokerUnavailable, TransportError)
    assert not issubclass(ConfigError, TransportError)


CELERY = {
    "celery/__init__.py": "",
    "celery/signals.py": "class Signal:\n    connect = staticmethod(lambda f: f)\ntask_prerun = Signal()\n",
    "celery/schedules.py": "def crontab(**k): ...\n",
}
SIGNALS = "from celery.signals import task_prerun\nfrom celery import schedules\n@task_prerun.connect\ndef f(): ...\n"


def test_what_is_left_of_celery_is_warned_of(check: Check, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = folder / "site-packages"
    for name, text in CELERY.items():
        (others / name).parent.mkdir(parents=True, exist_ok=True)
        (others / name).write_text(text)
    monkeypatch.syspath_prepend(str(others))
    monkeypatch.setattr("engine.cli.checks.folders_of_others", lambda: (f"{others}/",))
    ended = check("--json", app=SIGNALS + APP)
    for name in [name for name in sys.modules if name.partition(".")[0] == "celery"]:
        del sys.modules[name]
    (text,) = [text for level, about, text in _findings(ended) if (level, about) == ("warning", "app")]
    assert text.startswith("shop_app.py still uses schedules, task_prerun of Celery's: nothing of that runs here")
    assert ended.status == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from celery.signals import task_prerun", "write @app.on_child_start, hooks of a base= class"),
        ("from celery.schedules import crontab", "periodic tasks are not built"),
        ("from celery.contrib.abortable import AbortableTask", "result.revoke(terminate=True)"),
        ("import celery", "docs/celery.md says what to write instead"),
        ("from kombu import Queue", "docs/celery.md says what to write instead"),
    ],
)
def test_an_import_of_celery_that_is_not_installed_is_answered(
    check: Check, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    for name in ("celery", "kombu"):
        monkeypatch.setitem(sys.modules, name, None)  # what imports it is told that it is not there
    (text,) = [text for level, about, text in _findings(check("--json", app=f"{line}\n{APP}")) if about == "app"]
    assert said in text
