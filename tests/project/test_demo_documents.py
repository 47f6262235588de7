"""How the demo reads, splits and finds documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.demo.chunks import CHUNK_CHARACTERS, Chunk, cut, markdown_chunks, python_chunks, text_chunks
from engine.demo.index import Index, match_expression
from engine.demo.markup import html_chunks
from engine.demo.reading import UnreadableDocument, read_chunks

MARKDOWN = """\
Before any heading.

# Guide
Welcome.

## Install ##
```
# not a heading
```
pip

Usage
-----
run it

# End
"""

SOURCE = '''\
"""Doc."""
import os

@decorated
def first():
    return 1


class Second:
    x = 1
VALUE = 3
'''

PAGE = """\
<html><head><title>A page</title><style>p { color: red }</style></head>
<body><p>Intro &amp; more</p>
<h1>First <em>part</em></h1><p>one<br>two</p>
<script>var hidden = 1</script>
<h2>Second</h2>text
"""


def test_markdown_is_split_at_headings_with_their_path_and_line() -> None:
    chunks = markdown_chunks(MARKDOWN)
    assert [(chunk.heading, chunk.line) for chunk in chunks] == [
        ("", 1),
        ("Guide", 3),
        ("Guide > Install", 6),
        ("Guide > Usage", 12),
        ("End", 16),
    ]
    assert "# not a heading" in chunks[2].text


def test_python_is_split_at_top_level_definitions() -> None:
    chunks = python_chunks(SOURCE)
    assert [(chunk.heading, chunk.line) for chunk in chunks] == [
        ("module", 1),
        ("def first", 4),
        ("class Second", 9),
        ("module", 11),
    ]
    assert chunks[1].text.startswith("@decorated\ndef first")


@pytest.mark.parametrize("text", ["print 'python 2'", "def f(:\n", "x = '\\d'\n", "(" * 5000, "a\0b"])
def test_python_that_cannot_be_parsed_is_split_as_text(text: str) -> None:
    assert "".join(chunk.text for chunk in python_chunks(text)).strip() == text.strip()


def test_html_is_split_at_headings_without_markup_and_scripts() -> None:
    chunks = html_chunks(PAGE)
    assert [(chunk.heading, chunk.line) for chunk in chunks] == [("A page", 1), ("First part", 3), ("Second", 5)]
    assert "Intro & more" in chunks[0].text
    assert chunks[1].text == "First part\none\ntwo"
    assert not any("hidden" in chunk.text or "color" in chunk.text for chunk in chunks)


@pytest.mark.parametrize("text", ["<", "<!", "<h1", "<h1>never closed", "</script></p>", "&#x110000;", "<![if x"])
def test_any_text_is_html(text: str) -> None:
    assert isinstance(html_chunks(text), list)


def test_long_text_is_cut_at_empty_lines_and_no_word_is_lost() -> None:
    paragraphs = ["\n".join(f"word{n}-{line}" for line in range(20)) for n in range(100)]
    text = "\n\n".join(paragraphs)
    chunks = text_chunks(text)
    assert len(chunks) > 3
    assert all(len(chunk.text) <= CHUNK_CHARACTERS for chunk in chunks)
    assert [word for chunk in chunks for word in chunk.text.split()] == text.split()
    lines = text.split("\n")
    assert all(chunk.text.split("\n")[0] == lines[chunk.line - 1] for chunk in chunks)


def test_text_without_any_place_to_cut_is_cut_all_the_same() -> None:
    assert [len(chunk.text) for chunk in text_chunks("x" * (CHUNK_CHARACTERS + 5))] == [CHUNK_CHARACTERS, 5]


def test_empty_chunks_are_left_out() -> None:
    assert cut([Chunk("a", 1, " \n \n"), Chunk("b", 3, "\n\nx")]) == [Chunk("b", 5, "x")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.py", b"# coding: latin-1\ncaf\xe9 = 1\n"),
        ("utf8.py", "café = 1\n".encode()),
        ("bom.txt", "\ufeffcafé".encode()),
        ("wide.txt", "café".encode("utf-16")),
        ("windows.txt", b"caf\xe9 \x93quoted\x94"),
        ("page.html", b'<meta charset="iso-8859-1"><p>caf\xe9</p>'),
        ("odd.html", b'<meta charset="no-such-thing"><p>caf\xc3\xa9</p>'),
        ("broken.py", b"# coding: no-such-thing\ncaf\xc3\xa9 = 1\n"),
        ("none", "café".encode()),
    ],
)
def test_the_encoding_is_found(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    assert "café" in read_chunks(str(file))[0].text


def test_what_is_no_text_document_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "picture.txt"
    file.write_bytes(b"\x89PNG\0\0\0")
    with pytest.raises(UnreadableDocument, match=r"picture\.txt: a binary file"):
        read_chunks(str(file))
    with pytest.raises(FileNotFoundError, match=r"missing\.md"):
        read_chunks(str(tmp_path / "missing.md"))
    with pytest.raises(IsADirectoryError):
        read_chunks(str(tmp_path))


def test_a_document_is_replaced_and_found(tmp_path: Path) -> None:
    index = Index(str(tmp_path / "index.db"))
    reports: list[int] = []
    index.replace("a.md", [Chunk("Old", 1, "former words")], reports.append)
    index.replace("a.md", [Chunk("New", 7, "present words")] * 120, reports.append)
    index.replace("b.md", [Chunk("Other", 1, "nothing of it")], reports.append)
    assert reports == [1, 50, 100, 120, 1]
    assert index.search("former", 5) == []
    (hit,) = index.search("PRESENT words", 1)
    assert (hit["path"], hit["heading"], hit["line"]) == ("a.md", "New", 7)
    assert hit["snippet"] == "[present] [words]"
    assert index.totals() == {"documents": 2, "chunks": 121, "words": 243}
    index.close()


def test_a_replacement_that_fails_leaves_the_former_document(tmp_path: Path) -> None:
    index = Index(str(tmp_path / "index.db"))
    index.replace("a.md", [Chunk("", 1, "former")], lambda done: None)

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.replace("a.md", [Chunk("", 1, "present")], interrupt)
    assert [hit["snippet"] for hit in index.search("former", 5)] == ["[former]"]
    assert index.search("present", 5) == []
    index.close()


@pytest.mark.parametrize("query", ["", " ", '"', "AND", "a OR", "x*", "path:y", "os.path", "(", "^a NEAR(b)", "\0"])
def test_no_query_is_a_syntax_error(tmp_path: Path, query: str) -> None:
    index = Index(str(tmp_path / "index.db"))
    assert index.search(query, 5) == []
    index.close()


def test_a_query_is_quoted_word_by_word() -> None:
    assert match_expression('os.path "join') == '"os.path" """join"'
