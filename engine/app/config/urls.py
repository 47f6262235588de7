"""URLs of brokers and result backends, made fit to be shown."""

from __future__ import annotations

import re
from pathlib import Path

_PASSWORD = re.compile(r"(://[^:/?#@]*):.*@")
_SECRET = re.compile(r"([?&](?:password|passwd|secret|token|key)=)[^&#]*", re.IGNORECASE)
_HOST = re.compile(r"[\w.-]+:\d+(/.*)?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9.-]*)(?:\+[A-Za-z0-9.+-]*)?:")


def redact(url: str) -> str:
    """Returns the URL with its password as ``***``: up to the last @, as an unquoted password may hold one."""
    return _SECRET.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))


def readable(url: str) -> str:
    """Returns the URL as it is shown to people: without its password, a relative SQLite path made absolute."""
    prefix = "sqlite:///"
    path = url.removeprefix(prefix).partition("?")[0]
    if url.startswith(prefix) and path and not path.startswith("/"):
        return url.replace(path, str(Path(path).absolute()), 1)
    return redact(url)


def check_url(text: str) -> str:
    """Returns the text. Raises ValueError unless it is a URL, and for "localhost:6379", whose scheme were localhost."""
    if not _SCHEME.match(text) or _HOST.fullmatch(text):
        raise ValueError(f'"{redact(text)}" is not a URL such as "sqlite:///engine.db" or "redis://localhost/0"')
    return text


def scheme_of(url: str) -> str:
    """Returns the scheme that names the plugin: "redis" for "redis://..." and "redis+socket://...". "" if none."""
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""
