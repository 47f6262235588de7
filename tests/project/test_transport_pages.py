"""The pages and configurations of the transports that need a server say what their code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project_files import ROOT

from engine.app.config.loader import load
from engine.app.connect import results_for, transport_for
from engine.contract import ResultBackend, Transport
from engine_rabbitmq import RabbitResults, RabbitTransport, messages
from engine_redis import RedisResults, RedisTransport

SERVERS: dict[str, tuple[type[Transport], type[ResultBackend]]] = {
    "rabbitmq": (RabbitTransport, RabbitResults),
    "redis": (RedisTransport, RedisResults),
}


def _page(name: str) -> str:
    return (ROOT / f"transports/engine_{name}/README.md").read_text()


def _uncommented(name: str, folder: Path) -> str:
    """Returns a file with the shipped configuration in which everything that is commented out is switched on; of
    several URLs the first counts."""
    lines = (ROOT / f"conf/{name}.toml").read_text().splitlines()
    options = [re.sub(r"^# (?=\w+ = )", "", line) for line in lines if not line.startswith("# url = ")]
    file = folder / "all.toml"
    file.write_text("\n".join(options))
    return str(file)


@pytest.mark.parametrize("name", SERVERS)
def test_the_shipped_configuration_is_accepted_with_all_that_it_shows(name: str, tmp_path: Path) -> None:
    assert load(str(ROOT / f"conf/{name}.toml"), env={}).settings.engine.app == "engine.demo:app"
    settings = load(_uncommented(name, tmp_path), env={}).settings
    assert set(settings.broker.options) == set(SERVERS[name][0].options)
    assert type(transport_for(settings)) is SERVERS[name][0]
    assert type(results_for(settings)) is SERVERS[name][1]


@pytest.mark.parametrize("name", SERVERS)
def test_every_option_is_on_the_page(name: str) -> None:
    table = "\n".join(line for line in _page(name).splitlines() if line.startswith("| `"))
    for kind in SERVERS[name]:
        for option in kind.options:
            assert f"`{option}`" in table, f"transports/engine_{name}/README.md has no row for {option}"


def test_every_header_of_rabbitmq_is_on_its_page() -> None:
    headers = set(re.findall(r'"(engine-\w+)"', Path(messages.__file__).read_text()))
    assert headers == set(re.findall(r"`(engine-(?!rabbitmq)[a-z]+)`", _page("rabbitmq")))


def test_what_rabbitmq_may_say_is_what_the_code_says() -> None:
    rows = _page("rabbitmq").partition("## What it may say")[2]
    package = ROOT / "transports/engine_rabbitmq"
    dispatcher = [ROOT / "engine/runtime/dispatcher" / name for name in ("gate.py", "lost_runs.py")]
    said = re.sub(r'"\s*f?"', "", "".join(file.read_text() for file in [*package.glob("*.py"), *dispatcher]))
    texts = [text for row in re.findall(r"^\| (`.*?`) \|", rows, re.MULTILINE) for text in re.findall(r"`(.*?)`", row)]
    assert len(texts) > 15
    for text in texts:
        for part in re.split(r"\.\.\.|10 s", text):
            assert part.strip() in said, f"nothing says {part.strip()!r}"
