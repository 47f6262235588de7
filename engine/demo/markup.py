"""Splits HTML into chunks at its headings."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from engine.demo.chunks import Chunk, cut

_SILENT = frozenset({"script", "style", "template", "noscript", "svg"})
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_BLOCKS = _HEADINGS | frozenset(
    {"address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "footer", "form"}
    | {"header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table", "td", "th", "title", "tr", "ul"}
)
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


def html_chunks(text: str) -> list[Chunk]:
    """Splits HTML at h1 to h6; markup, scripts and styles are left out. Any text is HTML to it: nothing raises."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    return cut(parser.finish())


def html_charset(head: bytes) -> str | None:
    """Returns the encoding that a page names in a ``meta`` element among its first bytes."""
    found = _CHARSET.search(head[:4096])
    return found[1].decode("ascii", "replace") if found else None


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.chunks: list[Chunk] = []
        self.title = ""
        self.heading = ""
        self.line = 1
        self.text: list[str] = []
        self.silent = 0
        self.inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self.silent += 1
        elif tag in _HEADINGS:
            self.end_chunk()
            self.heading = ""
            self.inside = tag
        elif tag == "title":
            self.inside = tag
        if tag in _BLOCKS:
            self.text.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self.silent = max(0, self.silent - 1)
        if tag == self.inside:
            self.inside = None
        if tag in _BLOCKS:
            self.text.append("\n")

    def handle_data(self, data: str) -> None:
        if self.silent:
            return
        if self.inside == "title":
            self.title += data
        elif self.inside:
            self.heading += data
        self.text.append(data)

    def end_chunk(self) -> None:
        heading = " ".join((self.heading or self.title).split())
        self.chunks.append(Chunk(heading, self.line, _tidy("".join(self.text))))
        self.text = []
        self.line = self.getpos()[0]

    def finish(self) -> list[Chunk]:
        self.end_chunk()
        return self.chunks


def _tidy(text: str) -> str:
    """One line for each block, one space between words."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)
