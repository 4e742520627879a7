"""Reads plain text, Markdown and source code. Owns nothing but the decoding of the file as a whole."""

from __future__ import annotations

from embedmill.adapters.parsers import media_types as types
from embedmill.adapters.parsers.decoding import decode_named
from embedmill.adapters.parsers.files import read_bytes
from embedmill.adapters.parsers.text import clean, document, require_length
from embedmill.core.documents import ParsedDocument


class PlainTextParser:
    """`text/plain`, `text/markdown`: the text as it stands, only cleaned."""

    def __init__(self, max_text_chars: int) -> None:
        self._max_text_chars = max_text_chars

    def parse(self, path: str, media_type: str) -> ParsedDocument:
        text, encoding = read_text(path, self._max_text_chars)
        return document(
            text,
            media_type,
            is_markdown=media_type == types.MARKDOWN,
            metadata=None if encoding == "utf-8" else {"encoding": encoding},
        )


def read_text(path: str, max_text_chars: int) -> tuple[str, str]:
    """The cleaned text of a file and its encoding.

    Raises DocumentError: `too_large` before the whole of a file that cannot fit is read, `unsupported`.
    """
    # No encoding spends more than four bytes on a character.
    data = read_bytes(path, max_text_chars * 4 + 4)
    require_length((len(data) - 3) // 4, max_text_chars)
    decoded, encoding = decode_named(data)
    text = clean(decoded)
    require_length(len(text), max_text_chars)
    return text, encoding
