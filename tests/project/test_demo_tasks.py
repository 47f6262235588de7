"""The demo's tasks: called, run in place, and run by an engine from start to stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from project_files import ROOT

from engine.demo import tasks
from engine.demo.feed import find_documents
from engine.demo.reading import UnreadableDocument

DEADLINE = 120.0


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An index of the test's own."""
    path = tmp_path / "index.db"
    monkeypatch.setattr(tasks, "INDEX_PATH", str(path))
    yield path
    tasks.close_index()


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """A small document."""
    file = tmp_path / "guide.md"
    file.write_text("# Guide\nhow to bake bread\n# End\nthe oven is hot\n")
    return file


def test_a_document_is_processed_and_found(document: Path) -> None:
    result = tasks.process.apply((str(document),))
    assert result.state == "SUCCESS"
    assert result.get() == {"path": str(document), "chunks": 2, "words": 12}
    (hit,) = tasks.search("bread")
    assert (hit["path"], hit["heading"], hit["line"]) == (str(document), "Guide", 1)


def test_processing_twice_is_the_same_as_once(document: Path) -> None:
    for _ in range(2):
        tasks.process.apply((str(document),)).get()
    assert len(tasks.search("bread")) == 1


def test_what_cannot_be_read_is_a_failure_that_names_the_file(tmp_path: Path) -> None:
    picture = tmp_path / "picture.txt"
    picture.write_bytes(b"\x89PNG\0\0")
    with pytest.raises(UnreadableDocument, match=r"picture\.txt: a binary file"):
        tasks.process.apply((str(picture),)).get()
    missing = tasks.process.apply((str(tmp_path / "missing.md"),))
    assert missing.state == "FAILURE"
    with pytest.raises(FileNotFoundError, match=r"missing\.md"):
        missing.get()


def test_well_over_a_thousand_documents_are_found() -> None:
    documents = find_documents(1500)
    assert len(documents) > 1000
    assert len(set(documents)) == len(documents)
    assert all(file.is_file() for file in documents[:50])


def _demo(*arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "transports"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "engine.demo", "-c", str(ROOT / "conf/worker.toml"), *arguments],
        cwd="/",
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # SIGINT is ignored in a shell's background, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads here
    )


def test_the_demo_runs_with_the_shipped_configuration() -> None:
    with _demo("--limit", "60", "--query", "import") as demo:
        output, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 0, output
    assert "States: SUCCESS 60" in output
    assert "with status 0" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_ended_leaves_no_process(number: signal.Signals) -> None:
    with _demo() as demo:
        assert demo.stdout is not None
        said = []
        for line in demo.stdout:
            said.append(line)
            if found := re.search(r"engine is up: pid (\d+)", line):
                break
        assert found, said
        engine = int(found[1])
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode in (1, 130, 128 + signal.SIGTERM), output
    deadline = time.monotonic() + DEADLINE
    while Path(f"/proc/{engine}").exists():
        assert time.monotonic() < deadline, f"the engine (pid {engine}) is still there"
        time.sleep(0.02)
