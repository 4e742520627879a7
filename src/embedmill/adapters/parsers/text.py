"""Makes text fit to be stored, cut and cited, and puts documents together from their parts. Owns the rules of
clean text and the bounds of titles and metadata; must not know any file format."""

from __future__ import annotations

import re
from collections.abc import Mapping

from embedmill.adapters.parsers.markdown import first_heading
from embedmill.core.documents import ParsedDocument, Place
from embedmill.errors import DocumentError

MAX_TITLE_CHARS = 300
MAX_METADATA_ENTRIES = 32
MAX_METADATA_KEY_CHARS = 100
MAX_METADATA_VALUE_CHARS = 1000
MAX_LABEL_CHARS = 200

_SURROGATES = re.compile("[\ud800-\udfff]")
# A run this long is padding, and cutters that look for the best break in it take quadratic time.
_PADDING = re.compile(r"[^\S\n]{257,}")
_BLANK_LINE = re.compile(r"\n[^\S\n]+(?=\n)")
# One character repeated: a repeated group would keep a way back for each of millions of lines.
_EMPTY_LINES = re.compile(r"\n{4,}")


def clean(text: str) -> str:
    """Text without NUL and lone surrogates, with '\\n' as its only line end, at most three of them in a row.

    Everything else stays as it is: no Unicode normalisation, so that what is found can be found again.
    """
    if "\0" in text:
        text = text.replace("\0", "")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = _SURROGATES.sub("\ufffd", text)
    return _EMPTY_LINES.sub("\n\n\n", _BLANK_LINE.sub("\n", _PADDING.sub(" ", text)))


class TextBuilder:
    """Collects the parts of a document in order and remembers where each named part stands.

    Raises DocumentError("too_large") as soon as more than `max_chars` characters came together, so that a
    small file that unfolds into a huge one is stopped while it unfolds.
    """

    def __init__(self, max_chars: int, separator: str = "\n\n") -> None:
        self._max_chars = max_chars
        self._separator = separator
        self._parts: list[str] = []
        self._length = 0
        self.places: list[Place] = []

    def add(self, text: str) -> None:
        """Append a part that has no name of its own; a blank one adds nothing."""
        self._append(text)

    def add_place(self, kind: str, label: str, text: str) -> None:
        """Append a page, slide, sheet...; a blank one keeps its (empty) place in the order."""
        start, end = self._append(text)
        self.places.append(Place(kind, " ".join(clean(label).split())[:MAX_LABEL_CHARS], start, end))

    def text(self) -> str:
        return "".join(self._parts)

    def _append(self, text: str) -> tuple[int, int]:
        text = clean(text).strip("\n")
        if not text.strip():
            return self._length, self._length
        if self._parts:
            self._parts.append(self._separator)
            self._length += len(self._separator)
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        require_length(self._length, self._max_chars)
        return start, self._length


def require_length(chars: int, max_chars: int) -> None:
    if chars > max_chars:
        raise DocumentError(
            "too_large",
            f"The document unfolds to more than {max_chars:,} characters of text; split it, "
            "or raise the limit on text.",
        )


def document(
    text: str,
    media_type: str,
    *,
    title: str | None = None,
    is_markdown: bool = False,
    places: list[Place] | None = None,
    metadata: Mapping[str, str | None] | None = None,
) -> ParsedDocument:
    """A ParsedDocument of text that is already clean; without a title the first heading is the title."""
    if title is None and is_markdown:
        title = first_heading(text)
    return ParsedDocument(
        text=text,
        media_type=media_type,
        title=one_line(title, MAX_TITLE_CHARS),
        is_markdown=is_markdown,
        places=tuple(places or ()),
        metadata=bounded_metadata(metadata or {}),
    )


def one_line(value: str | None, max_chars: int) -> str | None:
    """The value on one line, cut to its length; None where nothing is left."""
    if not value:
        return None
    return " ".join(clean(value[: max_chars * 4]).split())[:max_chars].rstrip() or None


def bounded_metadata(metadata: Mapping[str, str | None]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for key, value in metadata.items():
        line = one_line(value, MAX_METADATA_VALUE_CHARS)
        name = one_line(key, MAX_METADATA_KEY_CHARS)
        if line and name and len(kept) < MAX_METADATA_ENTRIES:
            kept[name] = line
    return kept
