"""The user's app is found, and what is wrong in it is told with its file and line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import Engine
from engine.app import registry
from engine.app.discovery import load_app
from engine.app.settings import EngineSection, Settings, TaskSection
from engine.errors import ConfigError

Write = Callable[..., None]
APP = "from engine import Engine\napp = Engine('shop')\n@app.task\ndef bill(): ...\n"
TESTS = str(Path(__file__).parents[1])
MODULES = ("shop", "more", "app_of_mine")
"""What the tests write."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules into the current directory: ``write(shop__tasks="...")`` is shop/tasks.py."""
    monkeypatch.chdir(tmp_path)
    # Other tests have modules of these names, too.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry and not entry.startswith(TESTS)])
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in MODULES}

    def write(**modules: str) -> None:
        for name, text in modules.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    with registry.isolated():
        yield write
    for name in list(sys.modules):
        if name.partition(".")[0] in MODULES:
            del sys.modules[name]
    sys.modules.update(hidden)


def _load(app: str | None, include: list[str] | None = None, **settings: object) -> Engine:
    return load_app(Settings(engine=EngineSection(app=app, include=include or []), **settings))  # type: ignore[arg-type]


def _refusal(app: str | None, include: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        _load(app, include)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "app"),
    [
        (APP, "shop"),
        (APP.replace("app ", "celery ").replace("@app", "@celery"), "shop"),
        (APP.replace("app ", "application ").replace("@app", "@application"), "shop"),
        (APP.replace("app ", "whatever ").replace("@app", "@whatever"), "shop"),
        (APP + "alias = app", "shop"),
        (APP + "other = Engine('other')", "shop"),
        (APP + "other = Engine('other')", "shop:app"),
        (APP.replace("app ", "x ").replace("@app", "@x") + "y = Engine('y')", "shop:x"),
    ],
)
def test_the_app_is_found(write: Write, text: str, app: str) -> None:
    write(shop=text)
    found = _load(app)
    assert found.name == "shop"
    assert list(found.tasks) == ["shop.bill"]


def test_the_settings_are_the_operators(write: Write) -> None:
    write(shop=APP.replace("'shop'", "'shop', time_limit=5, broker='memory://code'"))
    app = _load("shop", tasks=TaskSection(time_limit=None), worker=Settings().worker)
    assert app.settings.tasks.time_limit is None
    assert app.settings.broker.url == "memory://code"


def test_all_task_modules_are_imported(write: Write) -> None:
    more = "from shop.app import app\n@app.task\ndef {}(): ...\n"
    write(
        shop__app=APP.replace("Engine('shop')", "Engine('shop', include=['shop.coded'])"),
        shop__coded=more.format("coded"),
        more__tasks=more.format("included"),
    )
    assert sorted(_load("shop.app", ["more.tasks"]).tasks) == [
        "more.tasks.included",
        "shop.app.bill",
        "shop.coded.coded",
    ]


def test_the_current_directory_is_looked_in_first(write: Write, tmp_path: Path) -> None:
    write(shop=APP)
    _load("shop")
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "app", "said"),
    [
        (APP, None, 'no app: write app = "package.module" under [engine], or give --app package.module'),
        (APP, "shpo", "[engine] app: no module 'shpo', did you mean \"shop\"? (the current directory is /"),
        (APP, "shop.tasks", "[engine] app: no module 'shop.tasks'"),
        (APP, "nowhere.tasks", "[engine] app: no module 'nowhere' (of 'nowhere.tasks'; the current directory is /"),
        ("ap_ = 1\n" + APP, "shop:ap", "[engine] app: shop:ap: shop.py has no 'ap', did you mean \"app\"?"),
        (APP, "shop:bill", "[engine] app: shop:bill is "),
        ("x = 1", "shop", "[engine] app: shop.py has no Engine: write app = Engine(...) there"),
        (APP.replace("app", "a") + "b = Engine('b')", "shop", '[engine] app: shop has a, b: write which one: "shop:a"'),
        ("import yamll", "shop", "[engine] app: shop.py:1: ModuleNotFoundError: No module named 'yamll'"),
        ("\nfrom engine import Engin", "shop", "[engine] app: shop.py:2: ImportError: cannot import name 'Engin'"),
        ("x = 1\ny = = 2", "shop", "[engine] app: shop.py:2: SyntaxError: invalid syntax"),
        ("def f():\n  return 1 / 0\nf()", "shop", "[engine] app: shop.py:2: ZeroDivisionError: division by zero"),
        ("import json\n\njson.loads('{')", "shop", "[engine] app: shop.py:3: JSONDecodeError: Expecting property"),
        ("import sys\nsys.exit(3)", "shop", "[engine] app: shop.py:2: SystemExit: 3"),
        ("raise ValueError('two\\nlines')", "shop", "[engine] app: shop.py:1: ValueError: two lines"),
        ("assert False", "shop", "[engine] app: shop.py:1: AssertionError"),
        (APP.replace("@app.task", "@app.task(quue='x')"), "shop", "[engine] app: shop.py:3: TypeError: "),
        (APP.replace("@app.task", "@app.task(time_limit='x')"), "shop", "[engine] app: shop.py:3: ConfigError: "),
    ],
)
def test_a_mistake_in_the_app_is_one_line(write: Write, text: str, app: str | None, said: str) -> None:
    write(shop=text)
    assert _refusal(app).startswith(said)


def test_the_way_to_a_mistake_is_told(write: Write) -> None:
    write(shop="import stock\n" + APP, stock="x = 1\nimport shelf\n", shelf="def f():\n  1 / 0\nf()")
    assert _refusal("shop") == (
        "[engine] app: shelf.py:2: ZeroDivisionError: division by zero "
        "(imported by shelf.py:3, stock.py:2, shop.py:1); ENGINE_DEBUG=1 shows the traceback"
    )


def test_the_traceback_is_shown_to_who_asks(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(shop="def f():\n  1 / 0\nf()")
    monkeypatch.setenv("ENGINE_DEBUG", "1")
    assert "ENGINE_DEBUG" not in _refusal("shop")
    assert 'shop.py", line 2, in f' in capsys.readouterr().err


def test_a_mistake_in_an_included_module(write: Write) -> None:
    write(shop=APP, more__tasks="import shop\nshop.app.tusk\n")
    assert _refusal("shop", ["more.tasks"]) == (
        "[engine] include: more/tasks.py:2: AttributeError: 'Engine' object has no attribute 'tusk'"
    )
    assert _refusal("shop", ["more.taks"]).startswith(
        "[engine] include: no module 'more.taks', did you mean \"tasks\"?"
    )


def test_a_module_that_the_code_includes_and_nobody_has(write: Write) -> None:
    write(shop__app=APP.replace("Engine('shop')", "Engine('shop', include=['shop.task'])"), shop__tasks="x = 1")
    assert _refusal("shop.app").startswith("include: no module 'shop.task', did you mean \"tasks\"? (the current dir")


def test_a_mistake_in_a_module_that_the_code_includes(write: Write) -> None:
    write(shop=APP.replace("Engine('shop')", "Engine('shop', include=['more.tasks'])"), more__tasks="1 / 0")
    assert _refusal("shop") == "include: more/tasks.py:1: ZeroDivisionError: division by zero"
