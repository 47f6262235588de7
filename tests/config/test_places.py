"""On which line of a TOML file a key is."""

from __future__ import annotations

import tomllib

import pytest

from engine.app.config.places import line_of, places

TEXT = """\
# [worker] in a comment
title = "a = [b]"   # x = 1

[worker]
queues = [
  "a",  # b = 2
  "[c]",
]
concurrency = 4

[ tasks . "documents.process" ]
rate_limit = "10/m"
text = \"\"\"
[routes]
x = 1
\"\"\"
'quoted.key' = 5

[plain]
a.b."c d" = 1
inline = { x = 1, y = { z = 2 } }
[[many]]
n = 1
[[many]]
n = 2
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("worker",), 4),
        (("worker", "queues"), 5),
        (("worker", "concurrency"), 9),
        (("tasks", "documents.process"), 11),
        (("tasks", "documents.process", "rate_limit"), 12),
        (("tasks", "documents.process", "quoted.key"), 17),
        (("plain", "a", "b", "c d"), 20),
        (("plain", "a"), 20),
        (("plain", "inline", "y", "z"), 21),
        (("many", "n"), 23),
        (("worker", "unknown"), 4),
        (("unknown",), 1),
    ],
)
def test_lines(path: tuple[str, ...], line: int) -> None:
    tomllib.loads(TEXT)
    assert line_of(places(TEXT), path) == line


def test_what_looks_like_a_table_inside_text_is_none() -> None:
    assert ("routes",) not in places(TEXT)


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n", "a = 1", 'a = """\n"quoted""""', "a = '''x'''\r\nb = 2\r\n"])
def test_small_files(text: str) -> None:
    assert set(places(text)) == {(key,) for key in tomllib.loads(text)}
