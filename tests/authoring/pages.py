"""The code in transports/README.md. Run this file to write the template of transports from it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "transports/README.md"
TEMPLATE = ROOT / "engine/cli/plugin_templates/transport/engine_spool/transport.py"


def file_of(name: str) -> str:
    """Returns the file that the code between the marks of ``name`` makes: steps that begin inside of a class are
    methods of it."""
    found = re.search(
        rf"<!-- {re.escape(name)} -->\n(.*?)<!-- end of {re.escape(name)} -->", PAGE.read_text(), re.DOTALL
    )
    if found is None:
        raise LookupError(f"{PAGE} has no marks for {name}")
    text = ""
    for step in re.findall(r"^```\w+\n(.*?)^```", found[1], re.DOTALL | re.MULTILINE):
        gap = "\n" if step.startswith(" ") else "\n\n"
        text += (gap if text else "") + step
    return text


if __name__ == "__main__":
    TEMPLATE.write_text(file_of("spool.py"))
