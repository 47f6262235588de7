"""`engine plugin check` names what is wrong with a plugin, and what to write instead."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pages import TEMPLATE

from engine.cli import main
from engine.cli.plugin_classes import fault_of
from engine.contract import Consumer, ResultBackend, Transport

GOOD = TEMPLATE.read_text()


class Checked:
    """What one check printed."""

    def __init__(self, status: int, findings: list[dict[str, str]]) -> None:
        self.status = status
        self.findings = findings

    def texts(self, *levels: str) -> list[str]:
        """Returns the findings of these levels."""
        return [finding["text"] for finding in self.findings if finding["level"] in levels]

    @property
    def errors(self) -> str:
        """All errors, as lines."""
        return "\n".join(self.texts("error"))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Checks a plugin: its text, or its name."""
    monkeypatch.chdir(tmp_path)

    def check(plugin: str, *options: str) -> Checked:
        if "\n" in plugin:
            file = tmp_path / f"plugin{len(list(tmp_path.iterdir()))}.py"
            file.write_text(plugin)
            plugin = str(file)
        capsys.readouterr()
        status = main.run(["plugin", "check", plugin, "--json", *options])
        return Checked(status, json.loads(capsys.readouterr().out))

    return check


def changed(pattern: str, text: str) -> str:
    """The page's transport with one thing changed."""
    assert re.search(pattern, GOOD, re.DOTALL)
    return re.sub(pattern, text, GOOD, count=1, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("name", "of"),
    [("memory", "Memory"), ("sqlite", "Sqlite"), ("redis", "Redis"), ("amqp", "Rabbit"), ("amqps", "Rabbit")],
)
def test_our_own_are_without_fault(check: Any, name: str, of: str) -> None:
    done = check(name)
    assert done.status == 0
    assert done.texts("warning", "error", "later") == []
    assert f"{name}:// is {of}Transport" in done.texts("ok")


def test_verdicts_are_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["plugin", "check", "memory"]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["ok", "hook", "engine_transport(scheme)"] in lines
    assert ["ok", "class", "engine_memory.transport.MemoryTransport implements Transport"] in lines
    assert ["note", "flags", "no: keeps_claims, durable, other_hosts"] in lines


def test_a_file_is_asked_for_the_schemes_in_its_code(check: Any) -> None:
    assert "spool:// is SpoolTransport" in check(GOOD).texts("ok")
    several = GOOD.replace('scheme == "spool"', 'scheme in ("spool", "spools")')
    assert "spool://, spools:// is SpoolTransport" in check(several).texts("ok")
    secret = GOOD.replace('scheme == "spool"', 'scheme == "".join(["SP", "OOL"]).lower()')
    assert "say which one it is for with --url" in check(secret).errors
    assert check(secret, "--url", "spool://broker").status == 0


def test_missing_methods_are_shown_with_their_signatures(check: Any) -> None:
    done = check(changed(r"    def wake\(self\).*?\n\n", ""))
    assert done.status == 78
    assert done.errors == "SpoolConsumer does not implement wake: write def wake(self)"
    done = check(changed(r"def publish\(self, envelopes", "def publsh(self, envelopes"))
    assert "SpoolTransport does not implement publish: write def publish(self, envelopes, *, batch=None)" in done.errors
    assert done.texts("warning") == ['SpoolTransport.publsh is not in the contract, did you mean "publish"?']


@pytest.mark.parametrize(
    ("pattern", "text", "fault"),
    [
        (
            ", *, batch: Batch | None = None",
            "",
            "SpoolTransport.publish does not take batch: write def publish(self, env",
        ),
        (
            "limit: int, timeout: float",
            "timeout: float, limit: int",
            "SpoolConsumer.fetch does not take limit, timeout",
        ),
        ("limit: int, timeout: float", "limit: int, timeout: float, x: int", "fetch demands x, which nobody gives"),
        ("def wake", "async def wake", "SpoolConsumer.wake is async: the engine calls it from a thread"),
        ("return stale", "yield stale", "SpoolConsumer.settle is a generator, which does nothing until"),
        (", *, options: Mapping", ", options: str, *, opts: Mapping", "SpoolTransport.__init__ demands opts"),
        ("limit: int = 100, queue", "limit: int, queue", "SpoolTransport.scheduled does not take limit"),
        (r"capabilities: ClassVar\[Capabilities\]", "flags: Any", "SpoolTransport has no `capabilities`: write cap"),
        ("durable=True", "durable=True, in_process=True", "in_process and durable: what lives in one process ends"),
        ("delays=True", "delays=False", "lists_scheduled without delays: nothing is delayed that could be listed"),
        ("durable=True", "durable=True, stores_results=True", "stores_results: write share_results()"),
        (
            "    def consume",
            "    options = {'size': dict, 'url': str}\n\n    def consume",
            "size: <class 'dict'> is no",
        ),
        ("    def consume", "    options = {'url': str}\n\n    def consume", "url is a key of the engine's own"),
        ("return SpoolTransport if", "return Folder if", "plugin0.Folder'> is no subclass of engine.contract.Transp"),
    ],
)
def test_what_does_not_fit_the_contract(check: Any, pattern: str, text: str, fault: str) -> None:
    done = check(changed(re.escape(pattern) if "\\" not in pattern else pattern, text))
    assert done.status == 78
    errors = re.sub(r"engine_plugin_(plugin\d)_\w+\.", r"\1.", done.errors)
    assert fault in errors


def test_what_fits_in_another_way() -> None:
    class Generous(Consumer):
        def fetch(self, *arguments: Any, **more: Any) -> Any: ...
        def wake(self, *, twice: bool = False) -> None: ...
        def settle(self, settlements: Any, again: bool = False) -> Any: ...

    for name in ("fetch", "wake", "settle"):
        assert fault_of(Generous, name, Consumer) is None

    class Waits(ResultBackend):
        def wait(self, ids: Any, timeout: Any) -> Any:
            yield

    assert fault_of(Waits, "wait", ResultBackend) is None
    assert fault_of(Transport, "publish", Transport) is None


def test_hooks_that_are_none(check: Any) -> None:
    assert (
        "engine_transprt is not a hook, did you mean"
        in check(GOOD.replace("engine_transport", "engine_transprt")).errors
    )
    assert "takes url, which the hook does not give" in check(GOOD.replace("(scheme: str)", "(url: str)")).errors
    assert (
        "NameError: name 'nothing' is not defined"
        in check(GOOD.replace("return SpoolTransport", "return nothing")).errors
    )
    assert "has no hooks: mark its functions with @hookimpl" in check(GOOD.replace("@hookimpl", "")).errors
    assert "ZeroDivisionError" in check("1 / 0\n").errors
    assert "no such file" in check("./nothing.py").errors
    assert check("redsi").errors == "no plugin 'redsi' is installed, did you mean \"redis\"?"
    assert "a file is named with its .py" in check("qqqq").errors


def test_opening(check: Any, tmp_path: Path) -> None:
    done = check(GOOD, "--url", f"spool://{tmp_path}/broker")
    assert done.status == 0
    assert f"spool://{tmp_path}/broker was opened, looked at and closed, twice" in done.texts("ok")
    assert check(GOOD, "--url", "spool://").errors == (
        '[broker] url = "spool://": name a folder, as in "spool:///var/lib/engine"'
    )
    assert "[broker] size: unknown key" in check(GOOD, "--url", "spool://broker", "-o", "size=7").errors
    (tmp_path / "file").touch()
    down = check(GOOD, "--url", f"spool://{tmp_path}/file/broker")
    assert (down.status, len(down.texts("later"))) == (75, 1)
    assert "memory://x is not for sqlite" in check("sqlite", "--url", "memory://x").errors


def test_who_connects_too_early_or_breaks(check: Any) -> None:
    early = changed(
        r"        path = url", "        import socket\n        self.sock = socket.socket()\n        path = url"
    )
    early = early.replace('"""Does nothing: no file stays open."""', "self.sock.close()")
    done = check(early, "--url", "spool://broker")
    assert "SpoolTransport connects or starts a thread in __init__, which may run before a fork" in done.errors
    broken = changed("return SpoolConsumer", "return str")
    assert "TypeError" in check(broken, "--url", "spool://broker").errors
    wrong = changed(r"return SpoolConsumer\(self._folder, queues, worker\)", "return self")
    assert "consume() gave" in check(wrong, "--url", "spool://broker").errors


CODEC = """
import json
from engine.contract import Codec, hookimpl

class Plain(Codec):
    name = "plain"
    is_json = False
    def encode(self, value): return json.dumps(value).encode()
    def decode(self, data, type=None): return json.loads(data)

@hookimpl
def engine_codecs():
    return [Plain()]
"""


def test_codecs(check: Any) -> None:
    assert check(CODEC).status == 0
    assert "'text'" in check(CODEC.replace("json.loads(data)", "None")).errors
    assert "KeyError" in check(CODEC.replace("json.loads(data)", "{}[data]")).errors
    assert "is no instance of engine.contract.Codec" in check(CODEC.replace("[Plain()]", "[Plain]")).errors


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["plugin", "check", "memory", "-o", "nonsense"]) == 64
    assert "'nonsense' is not KEY=VALUE" in capsys.readouterr().err
