"""Reads the XML parts of zipped documents and follows their relationships. Owns the bound on their size and
what a damaged one means; must not know what the documents say."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree

from embedmill.errors import DocumentError

_MAX_PART_BYTES = 16 * 1024 * 1024


def xml_part(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    """The root of a part. Raises DocumentError: `too_large`, `corrupt`; KeyError where there is none."""
    if archive.getinfo(name).file_size > _MAX_PART_BYTES:
        raise DocumentError("too_large", f"The part {name} of this file is too large to be real.")
    try:
        # Entities were refused before; expat builds no tree of references and fetches nothing.
        return ElementTree.fromstring(archive.read(name))  # noqa: S314
    except ElementTree.ParseError as error:
        raise DocumentError("corrupt", f"The part {name} of this file is damaged; save it again.") from error


def related_parts(archive: zipfile.ZipFile, name: str, kind: str) -> dict[str, str]:
    """The parts of that kind ("slide", "notesSlide") that a part refers to: path by relationship id."""
    folder, file = posixpath.split(name)
    relationships = posixpath.join(folder, "_rels", f"{file}.rels")
    if relationships not in archive.NameToInfo:
        return {}
    found = {}
    for element in xml_part(archive, relationships):
        # Strict and transitional files differ in the address before the last word.
        if element.get("Type", "").rpartition("/")[2] == kind and element.get("TargetMode") != "External":
            found[element.get("Id", "")] = resolved(folder, element.get("Target", ""))
    return found


def resolved(folder: str, target: str) -> str:
    """The path in the archive that a part in `folder` means by `target`."""
    path = unquote(target.partition("#")[0])
    return posixpath.normpath(path.lstrip("/") if path.startswith("/") else posixpath.join(folder, path))


def local_name(element: ElementTree.Element) -> str:
    """The tag without its namespace."""
    return element.tag.rpartition("}")[2]


def descendants(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """All elements of that local name below, in document order."""
    return (found for found in element.iter() if local_name(found) == name)
