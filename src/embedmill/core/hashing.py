"""The hash that says which text a chunk or a vector was made of. Pure.

Postgres computes the same: substring(sha256(convert_to(text, 'UTF8')) from 1 for 16).
"""

from __future__ import annotations

import hashlib

HASH_BYTES = 16


def text_hash(text: str) -> bytes:
    """The first 16 bytes of the SHA-256 of the text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).digest()[:HASH_BYTES]
