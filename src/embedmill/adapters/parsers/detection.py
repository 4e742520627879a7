"""Says what a file is. Owns the rule that content is believed over the name: the ending of a name only
chooses between readings that the content allows. Must not parse."""

from __future__ import annotations

import re

from embedmill.adapters.parsers import media_types as types
from embedmill.adapters.parsers.containers import compound_media_type, zip_media_type
from embedmill.adapters.parsers.decoding import decode, looks_binary, wide_encoding
from embedmill.adapters.parsers.files import read_bytes
from embedmill.errors import DocumentError

HEAD_BYTES = 64 * 1024
"""How much of a file `detect` wants to see."""

_COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")
_HTML = re.compile(
    r"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)[\s>]", re.IGNORECASE | re.DOTALL
)
_XHTML = re.compile(r"\s*<\?xml[^>]*>.{0,2000}?<html[\s>]", re.IGNORECASE | re.DOTALL)
_SVG = re.compile(r"\s*(?:<\?xml[^>]*>)?.{0,2000}?<svg[\s>]", re.IGNORECASE | re.DOTALL)
_HEADER = re.compile(r"[!-9;-~]+:")
_MAIL = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*)*?"
    r"(?:Received|Return-Path|Delivered-To|Message-ID|MIME-Version):",
    re.IGNORECASE,
)


def detect(path: str, head: bytes, name: str, media_type: str | None = None) -> str:
    """The media type by which the file is to be read; `head` is its first HEAD_BYTES.

    `media_type` (as a client declared it) and the ending of `name` are hints. Raises DocumentError:
    `empty`, `encrypted`, `corrupt`, or `unsupported` with what the file really is.
    """
    if not head:
        raise DocumentError("empty", "The file is empty (0 bytes).")
    ending = name.lower().rpartition(".")[2] if "." in name else ""
    if b"%PDF-" in head[:1024]:
        return types.PDF
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return zip_media_type(path)
    if head.startswith(_COMPOUND):
        return compound_media_type(read_bytes(path))
    _refuse_known_binary(head)
    if not head.startswith(_MARKS) and wide_encoding(head[:4096]) is None and looks_binary(head):
        raise _binary(ending)
    return _text_media_type(head, ending, media_type)


def _refuse_known_binary(head: bytes) -> None:
    magic, called = next(((m, words) for m, words in types.MAGIC if head.startswith(m)), (b"", None))
    # "ID3" or "BZh" may also begin a text; an odd byte in the magic itself may not.
    if called is not None and magic != b"%!PS" and all(31 < byte < 127 for byte in magic):
        called = called if looks_binary(head) else None
    if called is None and head[4:8] == b"ftyp":
        called = "a video, recording or HEIC image"
    if called is None and head.startswith(b"RIFF"):
        called = {b"WEBP": "a WebP image", b"WAVE": "a WAV recording"}.get(head[8:12], "a video")
    if called is None and head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        called = "a bitmap image"
    if called is None and head.startswith(b"MZ") and looks_binary(head):
        called = "a Windows program"
    if called is None and head[257:262] == b"ustar":
        called = "a tar archive"
    if called is not None:
        raise DocumentError("unsupported", f"The file is {called}; embedmill reads text.")


def _binary(ending: str) -> DocumentError:
    if ending in types.BINARY_BY_ENDING:
        return DocumentError(
            "corrupt", f"The file is called .{ending} but does not hold one; it is damaged or cut off."
        )
    called = f"is called .{ending} but " if ending else ""
    return DocumentError("unsupported", f"The file {called}holds binary data, not text.")


def _text_media_type(head: bytes, ending: str, declared: str | None) -> str:
    if head.startswith(b"{\\rtf"):
        return types.RTF
    text = decode(head[: 8 * 1024])
    if ending in ("svg", "svgz", "") and _SVG.match(text):
        raise DocumentError("unsupported", "The file is an SVG image; embedmill reads text.")
    by_ending = types.TEXT_BY_ENDING.get(ending)
    if by_ending == types.RTF or (by_ending == types.EML and not _HEADER.match(text.lstrip())):
        return types.PLAIN
    if by_ending is not None:
        return by_ending
    if ending in types.BINARY_BY_ENDING or ending in ("", "txt", "text") or " " in ending:
        return _by_looks(text, ending, declared)
    return _declared_text(declared)


def _by_looks(text: str, ending: str, declared: str | None) -> str:
    """For a text whose name says nothing, or something wrong."""
    if _HTML.match(text) or _XHTML.match(text):
        return types.HTML
    if ending not in ("txt", "text") and _MAIL.match(text):
        return types.EML
    return _declared_text(declared)


def _declared_text(declared: str | None) -> str:
    return declared if declared is not None and declared in types.TEXT_BY_ENDING.values() else types.PLAIN
