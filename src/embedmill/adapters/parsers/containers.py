"""Looks into the two boxes that office files come in, zip archives and OLE compound files, without unpacking
them: what kind is inside, is it encrypted, would it unfold to too much. Must not read any text."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from embedmill.adapters.parsers import media_types as types
from embedmill.adapters.parsers.files import megabytes
from embedmill.errors import DocumentError

MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
MAX_PART_BYTES = 256 * 1024 * 1024
MAX_PARTS = 50_000

_ENCRYPTED_FLAG = 0x1
# Parts that hold text; pictures and recordings are never unpacked, so their size does not matter.
_TEXT_ENDINGS = (".xml", ".rels", ".html", ".xhtml", ".htm", ".opf", ".ncx", ".vml", ".txt")

_XML_ENDINGS = (".xml", ".rels", ".xhtml", ".html", ".htm", ".opf", ".ncx")
# A declaration of entities stands before the first element.
_PROLOG_BYTES = 16 * 1024
# All that zipfile and zlib raise on nonsense: besides their own errors, slips of arithmetic on wild offsets.
_BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    OSError,
    struct.error,
)

_MIMETYPES = {
    b"application/epub+zip": types.EPUB,
    b"application/vnd.oasis.opendocument.text": types.ODT,
    b"application/vnd.oasis.opendocument.presentation": types.ODP,
    b"application/vnd.oasis.opendocument.spreadsheet": types.ODS,
}
_FOLDERS = (("word/", types.DOCX), ("ppt/", types.PPTX), ("xl/", types.XLSX))
_STREAMS = (
    ("WordDocument", types.DOC),
    ("Workbook", types.XLS),
    ("Book", types.XLS),
    ("PowerPoint Document", types.PPT),
    ("__properties_version1.0", types.MSG),
)


def zip_media_type(path: str) -> str:
    """The kind of document in a zip archive. Raises DocumentError: `corrupt`, `encrypted`, `unsupported`."""
    with opened_archive(path) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        media_type = None if _is_encrypted(members) else _declared(archive, names) or _by_folder(names)
    if _is_encrypted(members) or "META-INF/rights.xml" in names or "META-INF/sinf.xml" in names:
        raise DocumentError(
            "encrypted", "The file is protected by a password or rights management; remove the protection."
        )
    if media_type is None:
        raise DocumentError("unsupported", "This is a zip archive; unpack it and name the files inside.")
    return media_type


def require_harmless_archive(path: str) -> None:
    """Refuses what would unfold to more than a document ever does (`too_large`), and what declares XML
    entities of its own (`corrupt`).

    Sizes are those that the archive declares; the limits of the parser and of the process hold for liars.
    """
    with opened_archive(path) as archive:
        members = archive.infolist()
        _require_modest_size(members)
        for member in members:
            if member.filename.lower().endswith(_XML_ENDINGS):
                with archive.open(member) as part:
                    refuse_entities(part.read(_PROLOG_BYTES))


@contextmanager
def opened_archive(path: str) -> Iterator[zipfile.ZipFile]:
    """The zip archive; whatever is wrong with it is a DocumentError("corrupt")."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _BROKEN_ARCHIVE as error:
        raise DocumentError(
            "corrupt", "The archive inside this file is damaged or cut off; save or copy the file again."
        ) from error


def _require_modest_size(members: Sequence[zipfile.ZipInfo]) -> None:
    texts = [member.file_size for member in members if member.filename.lower().endswith(_TEXT_ENDINGS)]
    if len(members) > MAX_PARTS or sum(texts) > MAX_UNPACKED_BYTES or max(texts, default=0) > MAX_PART_BYTES:
        raise DocumentError(
            "too_large",
            f"The file unfolds to {megabytes(sum(texts))} in {len(members):,} parts, like a zip bomb; "
            "it is not unpacked.",
        )


def refuse_entities(head: bytes) -> None:
    """Refuses XML that declares entities of its own: no document needs them, bombs and thefts do.

    Raises DocumentError("corrupt").
    """
    declared = head.replace(b"\0", b"")
    if b"<!DOCTYPE" in declared and b"<!ENTITY" in declared:
        raise DocumentError(
            "corrupt",
            "The XML in this file declares entities of its own, as an entity bomb does; it is not expanded.",
        )


def compound_media_type(data: bytes) -> str:
    """The kind of document in an OLE compound file, from the names in its directory.

    Raises DocumentError: `encrypted` for a protected Office file, `unsupported` for any other.
    """
    if _has_stream(data, "EncryptedPackage"):
        raise DocumentError(
            "encrypted", "The file is protected by a password; open it, remove the password and save it."
        )
    for name, media_type in _STREAMS:
        if _has_stream(data, name):
            return media_type
    raise DocumentError("unsupported", "This is an OLE compound file of a kind that embedmill does not read.")


def _has_stream(data: bytes, name: str) -> bool:
    # A directory entry is the name in UTF-16, padded with NUL: looking for it needs no walk along chains of
    # sectors that a damaged or hostile file may have tied into a knot.
    return name.encode("utf-16-le") + b"\0\0" in data


def _declared(archive: zipfile.ZipFile, names: set[str]) -> str | None:
    if "mimetype" not in names or archive.getinfo("mimetype").file_size > 200:
        return None
    return _MIMETYPES.get(archive.read("mimetype").strip())


def _by_folder(names: set[str]) -> str | None:
    if "META-INF/container.xml" in names:
        return types.EPUB
    if "[Content_Types].xml" not in names:
        return None
    for folder, media_type in _FOLDERS:
        if any(name.startswith(folder) for name in names):
            return media_type
    return None


def _is_encrypted(members: Sequence[zipfile.ZipInfo]) -> bool:
    return any(member.flag_bits & _ENCRYPTED_FLAG for member in members)
