"""Reads PDF with liteparse: Markdown with headings, page by page. Owns the refusal of what has no text layer;
there is no OCR here. liteparse also converts other formats with programs it finds: it only gets real PDFs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from embedmill.adapters.parsers.files import read_bytes
from embedmill.adapters.parsers.pdf_headings import Item, body_size, headings_on, levelled, with_headings
from embedmill.adapters.parsers.pdf_pieces import running_lines, without_leaders
from embedmill.adapters.parsers.pdf_reconciliation import paragraph, reconciled
from embedmill.adapters.parsers.text import TextBuilder, document, require_length
from embedmill.core.documents import ParsedDocument
from embedmill.errors import ConfigurationError, DocumentError

if TYPE_CHECKING:
    from liteparse import LiteParse

# liteparse stops silently at 1000 pages unless told otherwise.
_MAX_PAGES = 1_000_000
# Bounds the memory that a long document takes at once; headers that repeat are still found.
_PAGES_AT_ONCE = 200
_PICTURE = re.compile(r"!\[[^\]\n]*\]\([^)\n]*\)")
_XMP_TITLE = re.compile(r"<dc:title>.{0,200}?<rdf:li[^>]*>([^<]{1,1000})</rdf:li>", re.DOTALL)


class _Page(Protocol):
    page_num: int
    text: str
    markdown: str
    text_items: Sequence[Item]


class PdfParser:
    def __init__(self, max_text_chars: int) -> None:
        self._max_text_chars = max_text_chars
        self._reader: LiteParse | None = None

    def parse(self, path: str, media_type: str) -> ParsedDocument:
        """Raises DocumentError: `encrypted`, `corrupt`, `no_text`, `too_large`."""
        data = read_bytes(path)
        if b"%PDF-" not in data[:1024]:
            raise DocumentError("corrupt", "The file is not a PDF: it does not begin as one.")
        builder = TextBuilder(self._max_text_chars)
        read = _Read(self._opened(), data)
        labels, texts = [], []
        length = 0
        for number, page in read.pages():
            length += len(page)
            require_length(length, self._max_text_chars)
            labels.append(number)
            texts.append(page)
        for label, page in zip(labels, levelled(texts), strict=True):
            builder.add_place("page", label, page)
        text = builder.text()
        if not text:
            raise _nothing_read(read)
        blank = [place.label for place in builder.places if place.start == place.end]
        return document(
            text,
            media_type,
            title=read.title,
            is_markdown=True,
            places=builder.places,
            metadata={
                "pages": str(read.total_pages),
                "pages_without_text": ", ".join(blank),
                "pages_unreadable": ", ".join(read.unreadable),
                "creator": read.creator,
            },
        )

    def load(self) -> None:
        """Raises ConfigurationError where liteparse is not installed."""
        reader = self._opened()
        from liteparse import ParseError  # noqa: PLC0415

        # Its first call reserves a gigabyte of addresses, whatever it is given.
        with contextlib.suppress(ParseError):
            reader.parse(b"%PDF-1.7\n")

    def _opened(self) -> LiteParse:
        if self._reader is None:
            try:
                from liteparse import LiteParse  # noqa: PLC0415
            except ImportError as error:
                raise ConfigurationError(
                    "Reading PDF needs an extra: pip install 'embedmill[parsers]'."
                ) from error
            self._reader = LiteParse(
                ocr_enabled=False,
                max_pages=_MAX_PAGES,
                output_format="markdown",
                extract_links=False,
                continue_on_page_error=True,
                extract_document_metadata=True,
                quiet=True,
            )
        return self._reader


class _Read:
    """One reading of one file, and what became known of it on the way."""

    def __init__(self, reader: LiteParse, data: bytes) -> None:
        self._reader = reader
        self._data = data
        self.total_pages = 0
        self.unreadable: list[str] = []
        self.title: str | None = None
        self.creator: str | None = None

    def pages(self) -> Iterator[tuple[str, str]]:
        """The number and the text of each page."""
        from liteparse import ParseError  # noqa: PLC0415

        try:
            for batch in self._reader.parse_batches(self._data, _PAGES_AT_ONCE):
                result = batch.result
                if not self.total_pages:
                    self.total_pages = batch.total_pages
                    self._note_properties(result)
                self.unreadable += [str(error.page_num) for error in result.page_errors]
                yield from _page_texts(result.pages)
        except ParseError as error:
            raise _refusal(str(error)) from error

    def _note_properties(self, result: object) -> None:
        self.creator = getattr(result, "creator", None)
        properties = getattr(result, "doc_meta", None)
        xmp = getattr(properties, "xmp", None)
        match = _XMP_TITLE.search(xmp) if isinstance(xmp, str) else None
        self.title = match.group(1) if match else None


def _page_texts(pages: Sequence[_Page]) -> Iterator[tuple[str, str]]:
    body = body_size(page.text_items for page in pages)
    headings = [headings_on(page.text_items, body) for page in pages]
    running = running_lines([page.text for page in pages], chain(*headings))
    for page, titles, lines in zip(pages, headings, running, strict=True):
        yield str(page.page_num), _page_text(page, titles, lines)


def _page_text(page: _Page, headings: Sequence[str], running: frozenset[str]) -> str:
    if not page.text.strip():
        return ""  # its Markdown is an empty fence
    markdown = _PICTURE.sub("", page.markdown or "")
    if not markdown.strip():
        # What repeats on each page is left out of the Markdown as a header, even where it is all there is.
        return paragraph(without_leaders(page.text).split("\n"))
    return with_headings(reconciled(markdown, page.text, running), headings)


def _nothing_read(read: _Read) -> DocumentError:
    if read.unreadable:
        return DocumentError("corrupt", "No page of this PDF could be read; save or copy the file again.")
    if not read.total_pages:
        return DocumentError("corrupt", "This PDF has no pages; save or copy the file again.")
    return DocumentError(
        "no_text",
        f"This PDF has {read.total_pages} pages but no text layer, as a scan has none; "
        "run it through OCR (for instance ocrmypdf) and ingest the result.",
    )


def _refusal(message: str) -> DocumentError:
    lowered = message.lower()
    if "password" in lowered or "encrypt" in lowered or "security" in lowered:
        return DocumentError("encrypted", "The PDF is protected by a password; save it without one.")
    return DocumentError("corrupt", "The PDF is damaged or cut off; save or copy the file again.")
