"""Reads Office files, OpenDocument, HTML, RTF, Outlook messages and notebooks with xberg, as Markdown. Owns how xberg
is called and what its failures mean; xberg is young, so nothing of it may show outside this file."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from embedmill.adapters.parsers import media_types as types
from embedmill.adapters.parsers.containers import refuse_entities, require_harmless_archive
from embedmill.adapters.parsers.decoding import decode_html
from embedmill.adapters.parsers.deep_html import CONVERTER_DEPTH, is_deep, words_of_html
from embedmill.adapters.parsers.files import read_bytes
from embedmill.adapters.parsers.mail_headers import without_technical_headers
from embedmill.adapters.parsers.markdown import unescaped
from embedmill.adapters.parsers.records import header, render, table_records
from embedmill.adapters.parsers.slides import Slide, by_number, slides_in_order
from embedmill.adapters.parsers.text import TextBuilder, document
from embedmill.core.documents import ParsedDocument, Place
from embedmill.errors import ConfigurationError, DocumentError

if TYPE_CHECKING:
    from xberg import ExtractedDocument, ExtractInput, ExtractionConfig, ExtractionResult
    from xberg._xberg import PageContent

# xberg's own defaults refuse good files: a form letter compresses 300:1, a price list has a million cells.
_MAX_COMPRESSION_RATIO = 1100  # deflate itself ends at 1032:1
_MAX_TABLE_CELLS = 10_000_000
_MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
_MAX_CONTENT_BYTES = 256 * 1024 * 1024

_PLACE_KINDS = {
    types.PPTX: "slide",
    types.PPT: "slide",
    types.ODP: "slide",
    types.XLSX: "sheet",
    types.XLS: "sheet",
    types.ODS: "sheet",
}
# Converters drop the raising of a number: 2 to the 48th would become 248.
_POWER = re.compile(
    r"(\d)<sup(?:\s[^<>]{0,200})?>(?:\s*<[a-z][^<>]{0,200}>){0,2}\s*([-+−]?\w{1,6})\s*(?:</[a-z]+>\s*){0,2}</sup>",
    re.IGNORECASE,
)
_HTML_TITLE = re.compile(r"<title[^>]*>([^<]{1,2000})</title", re.IGNORECASE)


class OfficeParser:
    def __init__(self, max_text_chars: int) -> None:
        self._max_text_chars = max_text_chars
        self._config: ExtractionConfig | None = None

    def parse(self, path: str, media_type: str) -> ParsedDocument:
        """Raises DocumentError: `encrypted`, `corrupt`, `too_large`, `no_text`."""
        if media_type in types.ARCHIVED:
            require_harmless_archive(path)
        data = read_bytes(path)
        if media_type == types.HTML:
            return self._parse_html(data)
        extracted = self._extract(data, media_type)
        shown = slides_in_order(path) if media_type == types.PPTX else []
        text, places = self._assemble(extracted, media_type, shown)
        return document(
            text,
            media_type,
            title=_title(extracted, media_type),
            is_markdown=True,
            places=places,
            metadata=_properties(extracted),
        )

    def load(self) -> None:
        """Raises ConfigurationError where xberg is not installed."""
        self._extract(b"<p>x</p>", types.HTML)

    def markdown_of_html(self, source: str) -> str:
        """The text of an HTML page as Markdown; of one that nests absurdly deep, its words alone."""
        if is_deep(source):
            return words_of_html(source)
        source = _POWER.sub(r"\1^\2", source)
        # xberg knows UTF-8 only and loses every other character.
        return unescaped(self._extract(source.encode("utf-8", "replace"), types.HTML).content)

    def _parse_html(self, data: bytes) -> ParsedDocument:
        refuse_entities(data[: 64 * 1024])
        source = decode_html(data)
        builder = TextBuilder(self._max_text_chars)
        builder.add(self.markdown_of_html(source))
        match = _HTML_TITLE.search(source, 0, 200_000)
        title = html.unescape(match.group(1)) if match else None
        return document(builder.text(), types.HTML, title=title, is_markdown=True)

    def _assemble(
        self, extracted: ExtractedDocument, media_type: str, shown: list[Slide]
    ) -> tuple[str, list[Place]]:
        """The text and its places. xberg's page boundaries do not index its content: the pages are joined
        here, so that the offsets are ours."""
        builder = TextBuilder(self._max_text_chars)
        kind = _PLACE_KINDS.get(media_type)
        if kind is None or not extracted.pages:
            text = unescaped(extracted.content)
            builder.add(without_technical_headers(text) if media_type == types.MSG else text)
        elif kind == "sheet":
            for page in extracted.pages:
                label = page.sheet_name or str(page.page_number)
                builder.add_place(kind, label, self._sheet(label, page))
        else:
            for number, (page, notes) in enumerate(_with_notes(extracted.pages, shown), start=1):
                text = unescaped(page.content).rstrip()
                builder.add_place(kind, str(number), f"{text}\n\nNotes: {notes}" if notes else text)
        return builder.text(), builder.places

    def _sheet(self, label: str, page: PageContent) -> str:
        """A sheet with named columns as one paragraph a row, like CSV; any other as the table that it is."""
        body = unescaped(page.content)
        if len(page.tables) == 1:
            cells = page.tables[0].cells
            if header(cells[:50]):
                body, _ = render(table_records(cells), self._max_text_chars)
        return f"## {label}\n\n{body}" if body.strip() else ""

    def _extract(self, data: bytes, media_type: str) -> ExtractedDocument:
        import asyncio  # noqa: PLC0415

        try:
            import xberg  # noqa: PLC0415
        except ImportError as error:
            raise ConfigurationError(
                "Reading Office files, HTML and e-mail needs an extra: pip install 'embedmill[parsers]'."
            ) from error
        if self._config is None:
            self._config = _config()
        config = self._config
        source = xberg.ExtractInput(kind="bytes", bytes=data, mime_type=media_type)
        try:
            result = asyncio.run(_extract(source, config))
        except (RuntimeError, ValueError, xberg.XbergError) as error:
            raise _refusal(str(error)) from error
        if not result.results:
            raise _refusal("; ".join(error.message for error in result.errors))
        return result.results[0]


async def _extract(source: ExtractInput, config: ExtractionConfig) -> ExtractionResult:
    import xberg  # noqa: PLC0415

    return await xberg.extract(source, config)


def _config() -> ExtractionConfig:
    import xberg  # noqa: PLC0415

    return xberg.ExtractionConfig(
        use_cache=False,  # a cache on disk would outlive the document
        disable_ocr=True,
        enable_quality_processing=False,
        output_format="markdown",
        escape_markdown=False,
        max_archive_depth=0,
        extraction_timeout_secs=None,  # the pool holds the clock
        pages=xberg.PageConfig(extract_pages=True),
        html_options=xberg.ConversionOptions(
            extract_metadata=False, skip_images=True, compact_tables=True, max_depth=CONVERTER_DEPTH
        ),
        concurrency=xberg.ConcurrencyConfig(max_threads=1),
        security_limits=xberg.SecurityLimits(
            max_archive_size=_MAX_UNPACKED_BYTES,
            max_compression_ratio=_MAX_COMPRESSION_RATIO,
            max_content_size=_MAX_CONTENT_BYTES,
            max_table_cells=_MAX_TABLE_CELLS,
        ),
    )


def _refusal(message: str) -> DocumentError:
    lowered = message.lower()
    if "password" in lowered or "encrypt" in lowered:
        return DocumentError("encrypted", "The file is protected by a password; save it without one.")
    if "nest" in lowered or "depth" in lowered:
        return DocumentError("corrupt", "The file nests its elements too deep to be a real document.")
    if "security" in lowered or "bomb" in lowered or "limit" in lowered:
        return DocumentError("too_large", "The file unfolds to far more than its size, like a zip bomb.")
    if "unsupported format" in lowered:
        return DocumentError("unsupported", "This kind of file is not one that embedmill reads.")
    return DocumentError("corrupt", "The file is damaged or cut off; save or copy it again.")


def _with_notes(pages: list[PageContent], shown: list[Slide]) -> list[tuple[PageContent, str]]:
    """The slides as they are shown, each with its own notes. xberg goes by the numbers in the names of parts,
    so that a slide that was moved stands in the wrong place and notes stand by the wrong slide."""
    if len(shown) != len(pages):
        return [(page, (page.speaker_notes or "").strip()) for page in pages]
    place = dict(zip(by_number(shown), pages, strict=True))
    return [(place[at], slide.notes) for at, slide in enumerate(shown)]


def _properties(extracted: ExtractedDocument) -> dict[str, str | None]:
    found = extracted.metadata
    mail = found.format.email if found.format is not None else None
    if mail is not None:
        return {"from": mail.from_email, "to": ", ".join(mail.to_emails), "date": found.created_at}
    return {
        "authors": ", ".join(found.authors or ()),
        "subject": found.subject,
        "keywords": ", ".join(found.keywords or ()),
        "language": found.language,
        "created": found.created_at,
        "modified": found.modified_at,
    }


def _title(extracted: ExtractedDocument, media_type: str) -> str | None:
    """None lets the first heading be the title, '' says that there is none."""
    if media_type == types.MSG:
        return extracted.metadata.subject or ""
    # The first heading of a workbook is the name of its first sheet.
    return extracted.metadata.title or ("" if _PLACE_KINDS.get(media_type) == "sheet" else None)
