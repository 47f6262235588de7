"""Splits text, Markdown and Python source into chunks. Pure functions.

A chunk is a piece of a document that fits on a screen or two, with the heading it stands under and the line (from 1)
that it starts at.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

CHUNK_CHARACTERS = 4000
"""A chunk longer than this is cut: at the last empty line before, else at the last line end."""

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class Chunk(NamedTuple):
    """A piece of a document."""

    heading: str
    line: int
    text: str

    @property
    def words(self) -> int:
        """How many words it has, separated by white space."""
        return len(self.text.split())


def text_chunks(text: str, heading: str = "") -> list[Chunk]:
    """Splits plain text by size."""
    return cut([Chunk(heading, 1, text)])


def markdown_chunks(text: str) -> list[Chunk]:
    """Splits Markdown at its headings; a chunk's heading is the path to it, such as "Guide > Install"."""
    return cut(_sections(text.splitlines()))


def python_chunks(text: str) -> list[Chunk]:
    """Splits Python source into its top-level functions and classes and what stands between them.

    Source that this interpreter cannot parse (an older dialect, a test of the parser) is split by size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the document, not about this program
            module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text_chunks(text, "source")
    return cut(_definitions(module, _source_lines(text)))


def cut(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Cuts chunks that are too long and leaves out those that are empty."""
    return [piece for chunk in chunks for piece in _pieces(chunk) if piece.text.strip()]


def _pieces(chunk: Chunk) -> Iterator[Chunk]:
    rest, line = chunk.text, chunk.line
    while len(rest) > CHUNK_CHARACTERS:
        end = _cut_at(rest)
        yield Chunk(chunk.heading, line, rest[:end].rstrip())
        line += rest.count("\n", 0, end)
        rest = rest[end:]
    yield _without_leading_lines(Chunk(chunk.heading, line, rest.rstrip()))


def _cut_at(text: str) -> int:
    half = CHUNK_CHARACTERS // 2
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, half, CHUNK_CHARACTERS)
        if at > 0:
            return at + len(mark)
    return CHUNK_CHARACTERS


def _without_leading_lines(chunk: Chunk) -> Chunk:
    text = chunk.text.lstrip("\n")
    return Chunk(chunk.heading, chunk.line + len(chunk.text) - len(text), text)


def _sections(lines: Sequence[str]) -> Iterator[Chunk]:
    path: list[tuple[int, str]] = []
    start = 0
    for at, level, title in _headings(lines):
        yield _lines_chunk(_join(path), lines, start, at)
        path = [(above, text) for above, text in path if above < level]
        path.append((level, title))
        start = at
    yield _lines_chunk(_join(path), lines, start, len(lines))


def _headings(lines: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yields (index of the line, level, title), not looking into fenced code."""
    fence = ""
    for at, line in enumerate(lines):
        mark = _FENCE.match(line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence:
            if heading := _ATX.match(line):
                yield at, len(heading[1]), (heading[2] or "").strip()
            elif at and (underline := _UNDERLINE.match(line)) and _is_title(lines, at - 1):
                yield at - 1, 1 if underline[1][0] == "=" else 2, lines[at - 1].strip()


def _is_title(lines: Sequence[str], at: int) -> bool:
    """Only a paragraph of one line is taken for an underlined title: longer ones are mostly tables and rules."""
    line = lines[at]
    return bool(line.strip()) and not _ATX.match(line) and (at == 0 or not lines[at - 1].strip())


def _join(path: Sequence[tuple[int, str]]) -> str:
    return " > ".join(title for _, title in path if title)


def _source_lines(text: str) -> list[str]:
    """The lines as the parser counts them: a form feed or a Unicode separator ends none."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _definitions(module: ast.Module, lines: Sequence[str]) -> Iterator[Chunk]:
    done = 0
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            end = node.end_lineno or start + 1
            yield _lines_chunk("module", lines, done, start)
            kind = "class" if isinstance(node, ast.ClassDef) else "def"
            yield _lines_chunk(f"{kind} {node.name}", lines, max(start, done), end)
            done = end
    yield _lines_chunk("module", lines, done, len(lines))


def _lines_chunk(heading: str, lines: Sequence[str], start: int, end: int) -> Chunk:
    return Chunk(heading, start + 1, "\n".join(lines[start:end]))
