"""The tables in docs/ that are made from the code. Run this file to write them again."""

from __future__ import annotations

import re

from project_files import ROOT

from engine.app.config.reference import settings
from engine.cli.main import VERBS

DOCS = ROOT / "docs"


def settings_table() -> str:
    """Every setting with type, default and meaning, as Markdown."""
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    section = ""
    for setting in settings():
        if setting.section != section:
            section = setting.section
            rows.append(f"| **`[{section}]`** | | | |")
        default = setting.default
        meaning = setting.doc.replace("``", "`").replace("\n", " ")
        cells = (f"`{setting.key}`", setting.type, f"`{default}`" if default else "", meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def verbs_table() -> str:
    """Every verb of the command line, as Markdown."""
    rows = ["| command | does |", "|---|---|"]
    rows += [f"| `engine {verb}` | {text} |" for verb, text in VERBS.items()]
    return "\n".join(rows)


TABLES = {
    "settings": (DOCS / "configuration.md", settings_table),
    "verbs": (DOCS / "operations.md", verbs_table),
}


def block(name: str, text: str) -> str:
    """Returns what stands between the marks of a table in ``text``."""
    found = re.search(f"<!-- {name} -->\n(.*?)\n?<!-- end of {name} -->", text, re.DOTALL)
    if found is None:
        raise LookupError(f"there are no marks for the table of {name}")
    return found[1]


def main() -> None:
    """Writes the tables into their pages."""
    for name, (page, table) in TABLES.items():
        text = page.read_text()
        old = f"<!-- {name} -->\n{block(name, text)}"
        page.write_text(text.replace(old, f"<!-- {name} -->\n{table()}", 1))


if __name__ == "__main__":
    main()
