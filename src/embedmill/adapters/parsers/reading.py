"""Reads one document from beginning to end: checks the path, says what it is, picks the parser of its family.
Owns that pick; runs inside the limited parsing process only."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from embedmill.adapters.parsers import media_types as types
from embedmill.adapters.parsers.delimited import DelimitedParser
from embedmill.adapters.parsers.detection import HEAD_BYTES, detect
from embedmill.adapters.parsers.epub import EpubParser
from embedmill.adapters.parsers.files import read_bytes, require_regular_file
from embedmill.adapters.parsers.json_documents import JsonParser
from embedmill.adapters.parsers.mail import MailParser
from embedmill.adapters.parsers.office import OfficeParser
from embedmill.adapters.parsers.pdf import PdfParser
from embedmill.adapters.parsers.plain import PlainTextParser
from embedmill.adapters.parsers.text import clean, document, require_length
from embedmill.core.documents import ParsedDocument
from embedmill.errors import DocumentError

if TYPE_CHECKING:
    # It brings numpy, which a tenth of a second of each parsing process would go into.
    from embedmill.ports import Parser

_TEXTUAL = frozenset({types.PLAIN, types.MARKDOWN, types.CSV, types.TSV, types.JSON, types.JSONL})


@runtime_checkable
class Loadable(Protocol):
    """A parser whose library is heavy; `load` brings it in and lets it take its working room."""

    def load(self) -> None: ...


class Reader:
    """The parsers of all families, made for one bound on text and kept between documents."""

    def __init__(
        self, max_text_chars: int, loading: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """`loading` stands around the loading of a family's library, which happens before the family first
        sees a document."""
        self._max_text_chars = max_text_chars
        self._loading = loading
        self._loaded: set[object] = set()
        office = OfficeParser(max_text_chars)
        self._parsers: dict[str, Parser] = {
            **dict.fromkeys(types.OFFICE, office),
            types.PDF: PdfParser(max_text_chars),
            types.EPUB: EpubParser(max_text_chars, office),
            types.EML: MailParser(max_text_chars, office),
            types.CSV: DelimitedParser(max_text_chars),
            types.TSV: DelimitedParser(max_text_chars),
            types.JSON: JsonParser(max_text_chars),
            types.JSONL: JsonParser(max_text_chars),
        }
        self._plain: Parser = PlainTextParser(max_text_chars)

    def read_file(self, path: str, name: str, media_type: str | None, max_bytes: int) -> ParsedDocument:
        """The document in a file. Raises DocumentError with its reason, ConfigurationError for a missing
        extra; never waits on the path."""
        require_regular_file(path, max_bytes)
        detected = detect(path, read_bytes(path, HEAD_BYTES), PurePath(name).name, media_type)
        parser = self._parsers.get(detected, self._plain)
        self._load(parser)
        return _with_text(parser.parse(path, detected))

    def read_text(self, text: str, media_type: str | None, *, is_markdown: bool) -> ParsedDocument:
        """The document that is given as text already: a row, a shard."""
        cleaned = clean(text)
        require_length(len(cleaned), self._max_text_chars)
        default = types.MARKDOWN if is_markdown else types.PLAIN
        return _with_text(document(cleaned, media_type or default, is_markdown=is_markdown))

    def _load(self, parser: Parser) -> None:
        if isinstance(parser, Loadable) and parser not in self._loaded:
            with self._loading():
                parser.load()
            self._loaded.add(parser)


def _with_text(read: ParsedDocument) -> ParsedDocument:
    if read.text.strip():
        return read
    if read.media_type in _TEXTUAL:
        raise DocumentError("empty", "The document holds nothing but white space.")
    raise DocumentError("no_text", "The document opened well but holds no text, perhaps only pictures.")
