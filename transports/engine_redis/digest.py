"""SHA-1, by which Redis knows its scripts. Not by `hashlib` where Python has its own: that brings OpenSSL, 1 MiB of an
idle worker."""

from __future__ import annotations

try:
    from _sha1 import sha1  # type: ignore[import-not-found]  # typeshed does not know it
except ImportError:  # a Python that was built without it
    from hashlib import sha1


def sha1_hex(data: bytes) -> str:
    """Returns the digest in hexadecimal digits."""
    digest: str = sha1(data, usedforsecurity=False).hexdigest()
    return digest
