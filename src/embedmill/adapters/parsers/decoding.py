"""Turns the bytes of a text file into text: byte order mark, UTF-8, UTF-16 by its pattern, then a guess. Owns
the choice of encoding; must not look at what the text means."""

from __future__ import annotations

import codecs
import re

from embedmill.errors import DocumentError

_MARKS = (
    # UTF-32 first: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Below this many bytes beyond ASCII statistics guess wildly; most such files are Western.
_FEW_BYTES = 32
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_HTML_CHARSET = re.compile(
    rb"""(?:<meta[^>]{0,200}?charset|<\?xml[^>]{0,100}?encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})""",
    re.IGNORECASE,
)
_WIDE = frozenset({"utf_7", "utf_8", "utf_16", "utf_16_le", "utf_16_be", "utf_32"})
_MEANT_CP1252 = frozenset({"iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii", "windows-1252"})
_GUESS_SAMPLE_BYTES = 64 * 1024
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\v\x1b\x08\x1a")


def decode(data: bytes) -> str:
    """The text of the bytes, without its byte order mark. Raises DocumentError("unsupported") for binary."""
    return decode_named(data)[0]


def decode_named(data: bytes) -> tuple[str, str]:
    """The text and the name of the encoding that it was read in."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), encoding
    try:
        if b"\0" not in data:
            return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    wide = wide_encoding(data[:4096])
    if wide is not None:
        return data.decode(wide, "replace"), wide
    if looks_binary(data[:65536]):
        raise DocumentError("unsupported", "The file holds binary data, not text.")
    text = data.decode("utf-8", "replace")
    if _mostly_utf8(text):
        return text, "utf-8"
    encoding = _guess(data)
    return data.decode(encoding, "replace"), encoding


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 without a mark: nearly every second byte of Western text is NUL, and always the same half."""
    if len(head) < 4 or b"\0" not in head:
        return None
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = len(head) // 2
    for encoding, nul, other in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if nul > 0.5 * half and other < 0.02 * half + 1:
            text = head[: len(head) & ~1].decode(encoding, "replace")
            readable = sum(character.isprintable() or character in "\t\r\n\f\ufeff" for character in text)
            if readable > 0.95 * len(text):
                return encoding
    return None


def looks_binary(head: bytes) -> bool:
    """Whether bytes are no text in any one-byte or multi-byte encoding: NUL, or too many control bytes."""
    # A stray NUL in a log is still a text; a binary file is full of them.
    if head.count(0) > max(1, len(head) // 2000):
        return True
    controls = sum(head.count(byte) for byte in range(32) if byte not in _TEXT_CONTROLS)
    if controls > 0.02 * len(head) + 1:
        return True
    return controls > 0.005 * len(head) + 1 and not _valid_utf8(head)


def _valid_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The head may end in the middle of a character.
        return error.start >= len(head) - 3
    return True


def _mostly_utf8(replaced: str) -> bool:
    """UTF-8 with a few broken bytes (a cut, a splice) is still UTF-8: the rest would become mojibake."""
    sample = replaced[:200_000]
    broken = sample.count("\ufffd")
    beyond_ascii = sum(character > "\x7f" for character in sample) - broken
    return broken * 10 < beyond_ascii


def _guess(data: bytes) -> str:
    """The likeliest one-byte or East Asian encoding; cp1252 where too little is there to tell."""
    beyond_ascii = _BEYOND_ASCII.search(data)
    first = beyond_ascii.start() if beyond_ascii else 0
    sample = data[max(0, first - 1024) : first + _GUESS_SAMPLE_BYTES]
    if sum(byte > 0x7F for byte in sample) >= _FEW_BYTES:
        from charset_normalizer import from_bytes  # noqa: PLC0415

        for match in from_bytes(sample):
            if _plausible(str(match)):
                return "cp1252" if _as_well_western(sample, match.encoding) else match.encoding
    # cp1252 leaves five codes undefined; what uses them is read by position, so that nothing is lost.
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _plausible(text: str) -> bool:
    """Half-width katakana are hardly ever written, but any one-byte text can be read as them."""
    beyond_ascii = [character for character in text if character > "\x7f"]
    half_width = sum("\uff61" <= character <= "\uff9f" for character in beyond_ascii)
    return half_width * 5 < len(beyond_ascii) + 5


def _as_well_western(sample: bytes, encoding: str) -> bool:
    """Whether cp1252 reads nearly all letters as the guess does: then the few that differ (naïve as naďve)
    are the guess's mistake, for the languages of the other code pages differ in every second letter."""
    if encoding in _WIDE:
        return False
    different = total = 0
    for byte in _BEYOND_ASCII.findall(sample):
        total += 1
        different += byte.decode("cp1252", "replace") != byte.decode(encoding, "replace")
    return different * 4 < total


def decode_html(data: bytes) -> str:
    """The text of an HTML page: by its mark, as UTF-8, as it says of itself, or by a guess."""
    match = _HTML_CHARSET.search(data[:4096])
    if match is not None and not any(data.startswith(mark) for mark, _ in _MARKS) and not _valid_utf8(data):
        named = match.group(1).decode("ascii").lower()
        try:
            # Browsers read "latin-1" and "ascii" as cp1252, and so do the people who wrote the page.
            codec = codecs.lookup("cp1252" if named in _MEANT_CP1252 else named)
            return codec.decode(data, "replace")[0]
        except (LookupError, ValueError, TypeError, AttributeError):
            return decode(data)  # an encoding that Python does not know, or no encoding of text
    return decode(data)
