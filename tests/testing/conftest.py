"""The fixtures under test come from the pytest plugin; the app is the one beside this file."""

from __future__ import annotations

import pytest
import shop


@pytest.fixture(scope="session")
def engine_app_name() -> str:
    """Names the app."""
    return "shop:app"


@pytest.fixture(autouse=True)
def payments_work() -> None:
    """No failures unless the test says so."""
    shop.Payments.failures = 0
