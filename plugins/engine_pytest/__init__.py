"""The pytest plugin: fixtures for who tests tasks. Documented in engine/testing/README.md.

pytest imports it in every run of everybody who has the engine installed. So it lies outside of the package ``engine``,
imports nothing of it before a fixture is used, and has no other hook than the one that declares its option.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engine import Engine
    from engine.testing import Eager, Sent, Worker

_HELP = 'the app of the fixtures engine_app and engine_worker: "package.module" or "package.module:variable"'


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declares the option ``engine_app`` of pytest.ini or pyproject.toml."""
    parser.addini("engine_app", _HELP, default="")


@pytest.fixture(scope="session")
def engine_app_name(pytestconfig: pytest.Config) -> str:
    """Where the app is: the option ``engine_app``. Override this fixture to name another one."""
    return str(pytestconfig.getini("engine_app"))


@pytest.fixture
def engine_eager(engine_app_name: str) -> Iterator[Eager]:
    """The app in eager mode, with its clock, its runs and what it sent."""
    from engine.testing import eager  # late: costs nothing where it is not used
    from engine.testing.apps import app_under_test  # late: as above

    with eager(app_under_test(engine_app_name)) as made:
        yield made


@pytest.fixture
def engine_app(engine_eager: Eager) -> Engine:
    """The app in eager mode: what is sent runs at once, without a broker, and waits for nothing."""
    return engine_eager.app


@pytest.fixture
def engine_sent(engine_app_name: str) -> Iterator[list[Sent]]:
    """What the app sends; nothing runs."""
    from engine.testing import recording  # late: costs nothing where it is not used
    from engine.testing.apps import app_under_test  # late: as above

    with recording(app_under_test(engine_app_name)) as sent:
        yield sent


@pytest.fixture
def engine_worker(engine_app_name: str) -> Iterator[Worker]:
    """A real worker for the app, which is connected to it: up in under a second, gone after the test."""
    from engine.testing import worker  # late: costs nothing where it is not used

    if not engine_app_name:
        pytest.fail("engine_worker: write engine_app = package.module:app into the pytest configuration", pytrace=False)
    with worker(engine_app_name) as running:
        yield running
