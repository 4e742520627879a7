"""Reads EPUB chapter by chapter in the order of its spine. Owns the way through the book's package; the pages
themselves are HTML and are read as such."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from xml.etree import ElementTree

from embedmill.adapters.parsers.containers import opened_archive, require_harmless_archive
from embedmill.adapters.parsers.decoding import decode_html
from embedmill.adapters.parsers.markdown import first_heading
from embedmill.adapters.parsers.office import OfficeParser
from embedmill.adapters.parsers.parts import resolved, xml_part
from embedmill.adapters.parsers.text import TextBuilder, document
from embedmill.core.documents import ParsedDocument
from embedmill.errors import DocumentError

_DC = "{http://purl.org/dc/elements/1.1/}"
_PAGE_TYPES = ("application/xhtml+xml", "text/html", "application/xml")


class EpubParser:
    def __init__(self, max_text_chars: int, office: OfficeParser) -> None:
        self._max_text_chars = max_text_chars
        self._office = office

    def load(self) -> None:
        self._office.load()

    def parse(self, path: str, media_type: str) -> ParsedDocument:
        """Raises DocumentError: `corrupt`, `too_large`, `no_text`."""
        require_harmless_archive(path)
        builder = TextBuilder(self._max_text_chars)
        with opened_archive(path) as archive:
            package_path = _package_path(archive)
            package = xml_part(archive, package_path)
            missing = []
            for page in _spine(package, posixpath.dirname(package_path)):
                if page not in archive.NameToInfo:
                    missing.append(page)
                    continue
                text = self._office.markdown_of_html(decode_html(archive.read(page)))
                if text.strip():
                    label = first_heading(text) or str(len(builder.places) + 1)
                    builder.add_place("chapter", label, text)
        return document(
            builder.text(),
            media_type,
            title=_property(package, "title"),
            is_markdown=True,
            places=builder.places,
            metadata={
                "authors": _property(package, "creator"),
                "language": _property(package, "language"),
                "publisher": _property(package, "publisher"),
                "missing_parts": ", ".join(missing),
            },
        )


def _package_path(archive: zipfile.ZipFile) -> str:
    if "META-INF/container.xml" in archive.NameToInfo:
        for element in xml_part(archive, "META-INF/container.xml").iter():
            path = element.get("full-path")
            if path:
                return path
    found = next((name for name in archive.namelist() if name.endswith(".opf")), None)
    if found is None:
        raise DocumentError("corrupt", "The EPUB does not say where its pages are; save it again.")
    return found


def _spine(package: ElementTree.Element, folder: str) -> Iterator[str]:
    """The paths of the pages in reading order."""
    pages = {
        element.get("id"): element.get("href", "")
        for element in package.iter()
        if element.tag.endswith("}item") and element.get("media-type", _PAGE_TYPES[0]) in _PAGE_TYPES
    }
    seen = set()
    for element in package.iter():
        href = pages.get(element.get("idref")) if element.tag.endswith("}itemref") else None
        if href and href not in seen:
            seen.add(href)
            yield resolved(folder, href)


def _property(package: ElementTree.Element, name: str) -> str | None:
    return next((element.text for element in package.iter(_DC + name) if element.text), None)
