"""Reads documents: finds out the kind and the encoding of a file and splits it into chunks."""

from __future__ import annotations

import codecs
import io
import tokenize
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.demo.chunks import Chunk, markdown_chunks, python_chunks, text_chunks
from engine.demo.markup import html_charset, html_chunks

MAX_BYTES = 32 * 2**20
"""Largest file that is read."""
SPLITTERS: Mapping[str, Callable[[str], Sequence[Chunk]]] = {
    ".py": python_chunks,
    ".pyi": python_chunks,
    ".md": markdown_chunks,
    ".markdown": markdown_chunks,
    ".html": html_chunks,
    ".htm": html_chunks,
    ".txt": text_chunks,
    ".rst": text_chunks,
}
"""How a file is split, by its suffix; one with any other suffix is split as plain text."""
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class UnreadableDocument(ValueError):
    """The file is no text, or is too large. The message says which and names the file."""


def read_chunks(path: str) -> list[Chunk]:
    """Reads the file and splits it.

    Raises OSError (FileNotFoundError, IsADirectoryError, PermissionError, ...) if it cannot be opened, and
    UnreadableDocument if it is no text document.
    """
    file = Path(path)
    split = SPLITTERS.get(file.suffix.lower(), text_chunks)
    return list(split(decode(_content(file), file)))


def decode(content: bytes, file: Path) -> str:
    """Turns a file's bytes into text: by byte order mark, by what the document says about itself, as UTF-8, and at
    last as Windows-1252, in which any text can be read. Raises UnreadableDocument for binary content."""
    for bom, encoding in _BOMS:
        if content.startswith(bom):
            return content.decode(encoding, "replace")
    if b"\0" in content[:8192]:
        raise UnreadableDocument(f"{file}: a binary file, not a text document")
    for encoding in (_declared(content, file.suffix.lower()), "utf-8"):
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode("cp1252", "replace")


def _content(file: Path) -> bytes:
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UnreadableDocument(f"{file}: larger than {MAX_BYTES // 2**20} MiB; split it, or raise MAX_BYTES")
    return content


def _declared(content: bytes, suffix: str) -> str:
    if suffix in {".py", ".pyi"}:
        try:
            return tokenize.detect_encoding(io.BytesIO(content).readline)[0]
        except SyntaxError:
            return "utf-8"
    if suffix in {".html", ".htm"}:
        return html_charset(content) or "utf-8"
    return "utf-8"
