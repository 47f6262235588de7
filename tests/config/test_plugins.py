"""Plugins are found by scheme or name, and what is wrong with one is said in a sentence that tells what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.app import plugins
from engine.app.plugins import entries
from engine.app.plugins.modules import from_file
from engine.app.settings import BrokerSection, PluginsSection, ResultsSection
from engine.contract.results import ResultBackend
from engine.contract.transport import Transport
from engine.errors import ConfigError, PluginError

Install = Callable[..., None]

TRANSPORT = """
from engine.contract import Capabilities, Transport, hookimpl

class Pigeons(Transport):
    capabilities = Capabilities(delays=False)
    options = {"speed": int, "patience": float, "loud": bool, "name": str}

    def __init__(self, url, *, options):
        super().__init__(url, options=options)
        self.given = dict(options)

Pigeons.__abstractmethods__ = frozenset()

@hookimpl
def engine_transport(scheme):
    return Pigeons if scheme == "pigeon" else None
"""
RESULTS = """
from engine.contract import ResultBackend, hookimpl

class Slate(ResultBackend):
    options = {"size": int}

    def __init__(self, url, *, expires, options):
        super().__init__(url, expires=expires, options=options)
        self.given = dict(options)

Slate.__abstractmethods__ = frozenset()

@hookimpl
def engine_results(scheme):
    return Slate if scheme == "slate" else None
"""
OBSERVER = """
from engine.contract import Codec, hookimpl

class Yaml(Codec):
    name = "yaml"
    is_json = False
    def encode(self, value): return b""
    def decode(self, data, type=None): return None

@hookimpl
def engine_codecs():
    return [Yaml()]

@hookimpl
def engine_events(events):
    pass
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes a distribution with one module and its entry points visible, as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def install(dist: str, group: str, names: dict[str, str], **modules: str) -> None:
        info = tmp_path / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
        lines = [f"{name} = {value}" for name, value in names.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)

    yield install
    for name in set(sys.modules) - before:
        if name.startswith(("engine_plugin_", "pigeon", "slate", "birds", "watch")):
            del sys.modules[name]


def _refusal(url: str, loaded: PluginsSection | None = None) -> str:
    with pytest.raises(PluginError) as caught:
        plugins.transport_class(url, loaded)
    return str(caught.value)


def test_an_installed_transport_is_found_by_its_scheme(install: Install) -> None:
    install("pigeon-post", plugins.TRANSPORTS, {"pigeon": "pigeons"}, pigeons=TRANSPORT)
    broker = BrokerSection("pigeon://loft", {"speed": "3KB", "patience": "2m", "loud": True})
    transport = plugins.open_transport(broker)
    assert type(transport).__name__ == "Pigeons"
    assert transport.url == "pigeon://loft"
    assert vars(transport)["given"] == {"speed": 3000, "patience": 120.0, "loud": True}


def test_only_the_plugin_that_is_asked_for_is_imported(install: Install) -> None:
    install("pigeon-post", plugins.TRANSPORTS, {"pigeon": "pigeons", "crow": "crows"}, pigeons=TRANSPORT, crows="1/0")
    assert issubclass(plugins.transport_class("pigeon+express://loft"), Transport)
    assert "crows" not in sys.modules


def test_an_installed_result_backend(install: Install) -> None:
    install("slates", plugins.RESULTS, {"slate": "slates"}, slates=RESULTS)
    backend = plugins.open_results(ResultsSection("slate://wall", options={"size": 4}))
    assert backend is not None
    assert (type(backend).__name__, backend.expires, vars(backend)["given"]) == ("Slate", 86400.0, {"size": 4})
    assert issubclass(plugins.results_class("slate:"), ResultBackend)


def test_no_urls() -> None:
    assert plugins.open_results(ResultsSection()) is None
    with pytest.raises(ConfigError, match=r"^no broker: write url = .* under \[broker\], or set ENGINE_BROKER_URL"):
        plugins.open_transport(BrokerSection())


def test_a_file_takes_part(install: Install, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TRANSPORT)
    loaded = PluginsSection(load=["./mine.py"])
    cls = plugins.transport_class("pigeon://loft", loaded)
    assert cls is plugins.transport_class("pigeon://loft", loaded)
    assert issubclass(plugins.transport_class("memory://", loaded), Transport)


def test_a_file_wins_over_what_is_installed(install: Install, tmp_path: Path) -> None:
    install("pigeon-post", plugins.TRANSPORTS, {"pigeon": "pigeons"}, pigeons=TRANSPORT)
    (tmp_path / "mine.py").write_text(TRANSPORT)
    cls = plugins.transport_class("pigeon://loft", PluginsSection(load=["mine.py"]))
    assert cls.__module__.startswith("engine_plugin_mine")


def test_two_files_for_one_scheme(install: Install, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(TRANSPORT)
    (tmp_path / "b.py").write_text(TRANSPORT)
    text = _refusal("pigeon://", PluginsSection(load=["a.py", "b.py"]))
    assert text == "[plugins] load: a.py and b.py both answer for pigeon: load one of them"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("sqllite:///a.db", ("no transport for 'sqllite' is installed", 'did you mean "sqlite"?')),
        ("carrier://a:b@c", ("carrier://a:***@c: ", "(there are ", "memory", "sqlite")),
        ("nats://", ("no transport for 'nats' is installed (there are",)),
    ],
)
def test_an_unknown_scheme(url: str, parts: tuple[str, ...]) -> None:
    text = _refusal(url)
    assert all(part in text for part in parts), text


def test_where_a_wrong_url_was_written() -> None:
    with pytest.raises(ConfigError, match=r"^worker.toml:2: nats://: no transport for 'nats'"):
        plugins.open_transport(BrokerSection("nats://", origins={"url": "worker.toml:2"}))
    with pytest.raises(ConfigError, match=r'^ENGINE_RESULTS_URL: \[results\] url = "sqlite://x": write'):
        plugins.open_results(ResultsSection("sqlite://x", origins={"url": "ENGINE_RESULTS_URL"}))


def test_a_scheme_that_comes_with_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = entries.named(plugins.TRANSPORTS, "memory")
    monkeypatch.setattr(plugins, "listed", lambda group: memory)
    monkeypatch.setattr("engine.app.plugins.modules.named", lambda group, name: [])
    assert _refusal("amqp://host").endswith("(there are memory): pip install 'prefork-engine[rabbitmq]'")
    assert _refusal("rediss://host").endswith("pip install 'prefork-engine[redis]'")


@pytest.mark.parametrize("dist", ["prefork-engine", "pigeon-post"])
def test_a_client_library_that_is_missing(install: Install, monkeypatch: pytest.MonkeyPatch, dist: str) -> None:
    install(dist, plugins.TRANSPORTS, {"redis": "birds"}, birds="import birdseed_client.aio\n")
    found = [one for one in entries.named(plugins.TRANSPORTS, "redis") if one.module == "birds"]
    monkeypatch.setattr("engine.app.plugins.modules.named", lambda group, name: found)
    wanted = "'prefork-engine[redis]'" if dist == "prefork-engine" else "birdseed_client"
    assert _refusal("redis://") == f"plugin redis of {dist} needs the package birdseed_client: pip install {wanted}"


def test_a_module_that_is_not_there(install: Install) -> None:
    install("pigeon-post", plugins.TRANSPORTS, {"pigeon": "pigeons"})
    assert "names pigeons, which is not there: install pigeon-post again" in _refusal("pigeon://")


def test_a_module_that_fails(install: Install) -> None:
    install("pigeon-post", plugins.TRANSPORTS, {"pigeon": "pigeons"}, pigeons="raise RuntimeError('no corn')")
    assert _refusal("pigeon://") == "plugin pigeon of pigeon-post cannot be imported: RuntimeError: no corn"


def test_two_distributions_for_one_name(install: Install) -> None:
    install("pigeon-post", plugins.TRANSPORTS, {"pigeon": "pigeons"}, pigeons=TRANSPORT)
    install("other-post", plugins.TRANSPORTS, {"pigeon": "birds"}, birds=TRANSPORT)
    assert _refusal("pigeon://") == (
        "engine.transports: two distributions claim 'pigeon': other-post (birds) and pigeon-post (pigeons): "
        "uninstall one of them"
    )


def test_an_entry_point_that_is_no_module(install: Install) -> None:
    install("pigeon-post", plugins.TRANSPORTS, {"pigeon": "pigeons:Pigeons"}, pigeons=TRANSPORT)
    assert "names pigeons:Pigeons, which is not a module" in _refusal("pigeon://")


HOOK = "from engine.contract import hookimpl\n@hookimpl\n"


def test_a_file_with_wrong_hooks_is_refused_each_time(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(HOOK + "def engine_event(events): ...\n")
    for _ in range(2):
        with pytest.raises(PluginError, match='engine_event is not a hook, did you mean "engine_events"'):
            from_file(str(file))
    file.write_text(HOOK + "def engine_events(events): ...\n")
    assert from_file(str(file)) is from_file(str(file)), "mended, it is imported once"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1", "has no hooks: mark its functions with @hookimpl (from engine.contract)"),
        (
            HOOK + "def engine_transports(scheme): ...",
            'engine_transports is not a hook, did you mean "engine_transport"?',
        ),
        (HOOK + "def zzz(): ...", "zzz is not a hook: there are engine_transport, engine_results"),
        (
            HOOK + "def engine_transport(url): ...",
            "takes url, which the hook does not give: write def engine_tra",
        ),
        (HOOK + "def engine_transport(scheme): return None", "but its engine_transport('pigeon') returns None"),
        (HOOK + "def engine_results(scheme): return None", "but its engine_transport('pigeon') returns None"),
        (
            HOOK + "def engine_transport(scheme): return int",
            "<class 'int'>, which is no subclass of engine.contract",
        ),
        (HOOK + "def engine_transport(scheme): return 3", "the plugin gave 3, which is no subclass of"),
        (
            TRANSPORT.replace("Pigeons.__abs", "Other = Pigeons\n# "),
            "pigeons.Pigeons does not implement broadcast, close, ",
        ),
        (
            TRANSPORT.replace("    capabilities =", "    abilities ="),
            "pigeons.Pigeons has no `capabilities`: set it to",
        ),
    ],
)
def test_a_plugin_that_is_wrong(install: Install, text: str, problem: str) -> None:
    install("pigeon-post", plugins.TRANSPORTS, {"pigeon": "pigeons"}, pigeons=text)
    assert problem in _refusal("pigeon://")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "[plugins] load: ./mine.py: no such file (looked for /"),
        ("import nothing_of_the_kind", "mine.py:1: ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("x = 1\ny =", "mine.py:2: SyntaxError: invalid syntax"),
        ("x = 1", "plugin ./mine.py has no hooks"),
    ],
)
def test_a_file_that_is_wrong(install: Install, tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    assert problem in _refusal("pigeon://", PluginsSection(load=["./mine.py"]))


def test_options_that_the_plugin_does_not_take(install: Install) -> None:
    install("pigeon-post", plugins.TRANSPORTS, {"pigeon": "pigeons"}, pigeons=TRANSPORT)
    broker = BrokerSection(
        "pigeon://",
        {"sped": 1, "zzz": 2, "patience": "long"},
        {"sped": "w.toml:3", "patience": "ENGINE_BROKER_PATIENCE"},
    )
    with pytest.raises(ConfigError) as caught:
        plugins.open_transport(broker)
    problems = str(caught.value).splitlines()
    assert problems[0] == 'w.toml:3: [broker] sped: unknown key, did you mean "speed"?'
    assert problems[1] == "[broker] zzz: unknown key (pigeon takes: speed, patience, loud, name)"
    assert problems[2].startswith("ENGINE_BROKER_PATIENCE: [broker] patience: 'long' is not a duration")


def test_observers_are_loaded_when_they_are_named(install: Install, tmp_path: Path) -> None:
    install("watchers", plugins.PLUGINS, {"watch": "watching", "other": "nowhere"}, watching=OBSERVER)
    (tmp_path / "mine.py").write_text(OBSERVER.replace("yaml", "toml"))
    loaded = plugins.load_observers(PluginsSection(enable=["watch"], load=["mine.py"]))
    assert {name for name, _ in loaded.list_name_plugin()} == {"watch", "mine.py"}
    assert len(loaded.hook.engine_events.get_hookimpls()) == 2
    codecs = plugins.codecs(PluginsSection(enable=["watch"], load=["mine.py"]))
    assert sorted(codec.name for codec in codecs) == ["toml", "yaml"]
    assert plugins.codecs(PluginsSection()) == []


def test_an_observer_that_is_not_installed(install: Install) -> None:
    install("watchers", plugins.PLUGINS, {"watch": "watching"}, watching=OBSERVER)
    with pytest.raises(
        PluginError, match=r"^\[plugins\] enable: no plugin 'wach' is installed, did you mean \"watch\"\?"
    ):
        plugins.load_observers(PluginsSection(enable=["wach"]))


def test_codecs_that_are_wrong(install: Install, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(OBSERVER)
    (tmp_path / "b.py").write_text(OBSERVER)
    with pytest.raises(PluginError, match="two plugins bring a codec 'yaml': enable one of them"):
        plugins.codecs(PluginsSection(load=["a.py", "b.py"]))
    (tmp_path / "c.py").write_text(OBSERVER.replace("[Yaml()]", "[Yaml]"))
    with pytest.raises(PluginError, match=r"which is no instance of engine\.contract\.Codec"):
        plugins.codecs(PluginsSection(load=["c.py"]))


def test_installed_plugins_are_listed_without_importing_them(install: Install) -> None:
    install("pigeon-post", plugins.TRANSPORTS, {"pigeon": "nowhere"})
    found = plugins.Installed(plugins.TRANSPORTS, "pigeon", "nowhere", "pigeon-post", "1.2")
    assert found in plugins.installed()


def test_the_supervisor_is_spared_what_reads_metadata() -> None:
    code = (
        "import sys, engine.cli.start, engine.runtime.boot\n"
        "print([name for name in ('importlib.metadata', 'email', 'zipfile', 'ssl') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
