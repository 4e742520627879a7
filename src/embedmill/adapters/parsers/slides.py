"""Says in which order a PowerPoint file shows its slides and which notes belong to each, by following the
file's own relationships: numbers in the names of parts mean nothing. The slides' text is xberg's."""

from __future__ import annotations

import re
import zipfile
from xml.etree import ElementTree

import msgspec

from embedmill.adapters.parsers.containers import opened_archive
from embedmill.adapters.parsers.parts import descendants, local_name, related_parts, xml_part

_PRESENTATION = "ppt/presentation.xml"
_NUMBERED = re.compile(r"(?:.*/)?slide(\d+)\.xml")
# What the notes page shows around the notes: picture of the slide, number, date, running lines.
_FURNITURE = frozenset({"sldImg", "sldNum", "hdr", "ftr", "dt"})


class Slide(msgspec.Struct, frozen=True):
    """One slide: its part in the archive and its speaker notes ('' without any)."""

    part: str
    notes: str


def slides_in_order(path: str) -> list[Slide]:
    """The slides as they are shown; empty where the file does not list them. Raises DocumentError."""
    with opened_archive(path) as archive:
        if _PRESENTATION not in archive.NameToInfo:
            return []
        parts = related_parts(archive, _PRESENTATION, "slide")
        listed = [
            parts[reference]
            for entry in descendants(xml_part(archive, _PRESENTATION), "sldId")
            for key, reference in entry.items()
            if key.endswith("}id") and reference in parts
        ]
        return [Slide(part, _notes(archive, part)) for part in listed]


def by_number(slides: list[Slide]) -> list[int]:
    """Positions of the slides in the order of the numbers in their names, which is xberg's order."""
    return sorted(range(len(slides)), key=lambda at: _number(slides[at].part))


def _number(part: str) -> float:
    match = _NUMBERED.fullmatch(part)
    return int(match.group(1)) if match else float("inf")


def _notes(archive: zipfile.ZipFile, slide: str) -> str:
    pages = [
        page for page in related_parts(archive, slide, "notesSlide").values() if page in archive.NameToInfo
    ]
    shapes = (shape for page in pages for shape in descendants(xml_part(archive, page), "sp"))
    texts = (_text(shape) for shape in shapes if _placeholder(shape) not in _FURNITURE)
    return "\n\n".join(text for text in texts if text)


def _placeholder(shape: ElementTree.Element) -> str | None:
    return next((found.get("type") for found in descendants(shape, "ph")), None)


def _text(shape: ElementTree.Element) -> str:
    paragraphs = ("".join(_runs(paragraph)).strip() for paragraph in descendants(shape, "p"))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def _runs(paragraph: ElementTree.Element) -> list[str]:
    return [
        "\n" if local_name(found) == "br" else found.text or ""
        for found in paragraph.iter()
        if local_name(found) in ("t", "br")
    ]
