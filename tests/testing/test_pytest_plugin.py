"""The pytest plugin in a project of somebody else's: the example of the README, and no harm to who does not use it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "engine" / "testing" / "README.md"


def _python(folder: Path, *args: str) -> str:
    paths = [str(ROOT), str(ROOT / "transports"), str(ROOT / "plugins")]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ENGINE_", "PYTEST_"))}
    env["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    text = README.read_text().partition("# Testing what goes wrong")[0]
    (settings,) = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    shop, tests, session = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "pyproject.toml").write_text(settings)
    (tmp_path / "shop.py").write_text(shop)
    (tmp_path / "test_shop.py").write_text(tests)
    plugin = () if _is_registered() else ("-p", "engine_pytest")
    assert "5 passed" in _python(tmp_path, "-m", "pytest", "-q", *plugin, "-p", "no:cacheprovider")
    (tmp_path / "conftest.py").write_text(session)
    assert "1 passed" in _python(tmp_path, "-m", "pytest", "-q", *plugin, "-p", "no:cacheprovider", "-k", "in_a_worker")


CLIENT = """\
import socket
from urllib.parse import urlsplit


class RedisError(Exception):
    pass


class Redis:
    def __init__(self, address=None):
        self.address = address

    @classmethod
    def from_url(cls, url):
        return cls((urlsplit(url).hostname, urlsplit(url).port))

    def get(self, key):
        with socket.create_connection(self.address) as link:
            link.sendall(b"GET %d\\r\\n" % key)
            answer = link.recv(1000)
        if not answer.startswith(b"$"):
            raise RedisError(answer)
        return answer.split(b"\\r\\n")[1]
"""
"""As much of a Redis client as the example needs: the engine does without the one it is written for."""
CACHED = """\
import redis
from engine import Engine

app = Engine("shop")
cache = redis.Redis()


@app.task
def price(item):
    try:
        return int(cache.get(item))
    except redis.RedisError:
        return 250
"""


def test_the_example_of_what_goes_wrong(tmp_path: Path) -> None:
    text = README.read_text().partition("# Testing what goes wrong")[2].partition("# Testing plugins")[0]
    (tests,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "redis.py").write_text(CLIENT)
    (tmp_path / "shop.py").write_text(CACHED)
    (tmp_path / "test_shop.py").write_text(f"import shop\n{tests}")
    assert "1 passed" in _python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_the_plugin_imports_nothing_of_the_engine(tmp_path: Path) -> None:
    program = "import sys, engine_pytest; print([name for name in sys.modules if name.partition('.')[0] == 'engine'])"
    assert _python(tmp_path, "-c", program).strip() == "[]"


def test_without_an_app_a_worker_says_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "from engine import shared_task\n\n\n"
        "@shared_task\ndef add(x, y):\n    return x + y\n\n\n"
        "def test_shared(engine_app):\n    assert add.delay(1, 2).get() == 3\n\n\n"
        "def test_shared_again(engine_app):\n    assert add.delay(1, 2).get() == 3\n\n\n"
        "def test_worker(request):\n"
        "    with pytest.raises(pytest.fail.Exception, match='write engine_app'):\n"
        "        request.getfixturevalue('engine_worker')\n"
    )
    plugin = () if _is_registered() else ("-p", "engine_pytest")
    assert "3 passed" in _python(tmp_path, "-m", "pytest", "-q", *plugin, "-p", "no:cacheprovider")


def _is_registered() -> bool:
    """Is an installed engine's plugin this one?"""
    from importlib.metadata import entry_points

    return any(entry.value == "engine_pytest" for entry in entry_points(group="pytest11"))
