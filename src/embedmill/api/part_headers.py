"""The headers of a form and of its parts, as clients really write them. Owns their grammar (RFC 2045, 5987, 6266,
7578, and what browsers do); must not decide what a form may hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105
_MEDIA_TYPE = re.compile(rf"\s*({_TOKEN}/{_TOKEN})\s*(?:;|\Z)", re.ASCII)
_KIND = re.compile(rf"\s*({_TOKEN})\s*(?:;|\Z)", re.ASCII)
# A quoted value ends at the first quote that has no backslash before it.
_PARAMETER = re.compile(
    rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))\s*(?:;|\Z)', re.DOTALL | re.ASCII
)
_EMPTY_PARAMETER = re.compile(r"\s*;", re.ASCII)
_NOTHING_MORE = re.compile(r"\s*\Z", re.ASCII)
_BOUNDARY = re.compile(r"[\x20-\x7e]{0,199}[\x21-\x7e]")
_CHARSETS = {"utf-8": "utf-8", "us-ascii": "ascii", "iso-8859-1": "latin-1"}


class BadHeaderError(ValueError):
    """This header cannot be read."""


@dataclass(frozen=True)
class Disposition:
    """`file_name` is None where the part is a field, "" where a browser sent an empty file box."""

    name: str
    file_name: str | None


def media_type_of(value: str) -> str | None:
    """ "Text/Plain; charset=x" gives "text/plain"; None for what is no media type."""
    found = _MEDIA_TYPE.match(value)
    return found[1].lower() if found else None


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a form, None where there is none that could be one."""
    start = content_type.find(";")
    if start < 0:
        return None
    try:
        boundary = _parameters(content_type, start + 1).get("boundary", "")
    except BadHeaderError:
        return None
    return boundary.encode("ascii") if _BOUNDARY.fullmatch(boundary) else None


def charset_of(content_type: str) -> str | None:
    """The codec of a text field: of its charset, UTF-8 where it names none, None for one that is not taken."""
    start = content_type.find(";")
    if start < 0:
        return "utf-8"
    try:
        return _CHARSETS.get(_parameters(content_type, start + 1).get("charset", "utf-8").lower())
    except BadHeaderError:
        return None


def parse_disposition(value: bytes) -> Disposition:
    """Content-Disposition of a part. Raises BadHeaderError where it is not `form-data` with a name."""
    # Latin-1 keeps each byte, whatever the encoding is: parameters are decoded one by one.
    text = value.decode("latin-1")
    kind = _KIND.match(text)
    if kind is None or kind[1].lower() != "form-data":
        raise BadHeaderError
    parameters = _parameters(text, kind.end())
    if "name" not in parameters:
        raise BadHeaderError
    extended = _decode_extended(parameters.get("filename*", ""))
    plain = parameters.get("filename")
    file_name = extended if extended is not None else None if plain is None else _decode_plain(plain)
    if file_name is None and "filename*" in parameters:
        file_name = ""
    return Disposition(_decode_plain(parameters["name"]), file_name)


def _parameters(text: str, start: int) -> dict[str, str]:
    """Parameters by lower-case name. A name twice is refused: two readers would see two files."""
    found: dict[str, str] = {}
    while not _NOTHING_MORE.match(text, start):
        if empty := _EMPTY_PARAMETER.match(text, start):
            start = empty.end()
            continue
        parameter = _PARAMETER.match(text, start)
        if parameter is None or parameter[1].lower() in found:
            raise BadHeaderError
        quoted, bare = parameter[2], parameter[3]
        found[parameter[1].lower()] = bare if quoted is None else _unquote(quoted)
        start = parameter.end()
    return found


def _unquote(quoted: str) -> str:
    r"""Only \" and \\ are escapes: Windows programs send C:\docs\report.pdf as it is."""
    return re.sub(r'\\(["\\])', r"\1", quoted)


def _decode_plain(value: str) -> str:
    """UTF-8, else what old Windows programs write; then the three escapes that browsers make."""
    raw = value.encode("latin-1")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "replace")
    return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _decode_extended(value: str) -> str | None:
    """RFC 5987: utf-8'en'na%C3%AFve.txt. None where it is not of that form."""
    charset, _, rest = value.partition("'")
    _, quote, encoded = rest.partition("'")
    codec = _CHARSETS.get(charset.lower())
    if not quote or codec is None:
        return None
    return unquote_to_bytes(encoded.encode("latin-1")).decode(codec, "replace")
