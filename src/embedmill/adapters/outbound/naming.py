"""What a fetched document is called. Owns the reading of Content-Disposition (RFC 6266, 8187) and the cleaning of
names; a name comes from a stranger and must be harmless as a file's name on any system."""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote, unquote_to_bytes

import httpx2

MAX_NAME_BYTES = 255
_PARAMETER = re.compile(
    r""";\s*(?P<name>[^\s=;"]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^;]*))"""
)
_EXTENDED = re.compile(r"(?P<charset>[A-Za-z0-9._-]+)'[A-Za-z0-9-]*'(?P<text>.*)", re.DOTALL)
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")


def name_of(response: httpx2.Response, final_url: httpx2.URL, first_url: httpx2.URL) -> str:
    """The name that the server gives, else the last part of the path, else the host's; never empty."""
    given = name_in_disposition(raw_header(response, "content-disposition"))
    for candidate in (given, _last_part(final_url), _last_part(first_url)):
        name = cleaned(candidate or "")
        if name:
            return name
    suffix = mimetypes.guess_extension(media_type_of(response.headers) or "") or ""
    return cleaned(f"{final_url.raw_host.decode('ascii')}{suffix}") or "document"


def name_in_disposition(header: str | None) -> str | None:
    """`filename*` before `filename`; None where neither can be read."""
    found: dict[str, str] = {}
    for parameter in _PARAMETER.finditer(header or ""):
        quoted, token = parameter["quoted"], parameter["token"]
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else (token or "").strip()
        found.setdefault(parameter["name"].lower(), value)
    return _decoded(found.get("filename*")) or found.get("filename") or None


def media_type_of(headers: Mapping[str, str]) -> str | None:
    """The type without its parameters, in lower case; None where there is none that can be read."""
    essence = headers.get("content-type", "").split(";", 1)[0].strip().lower()
    return essence if _MEDIA_TYPE.fullmatch(essence) else None


def cleaned(name: str) -> str:
    """A file's name: no folder, nothing invisible, at most MAX_NAME_BYTES with its ending kept; '' where nothing
    is left."""
    last = re.split(r"[/\\]", name)[-1]
    # Control characters, marks that turn the direction of writing, surrogates, what is not assigned.
    visible = "".join(
        letter if unicodedata.category(letter)[0] != "C" else ""
        for letter in unicodedata.normalize("NFC", last)
    )
    harmless = re.sub(r'[<>:"|?*]', "_", " ".join(visible.split())).strip(" .")
    return _shortened(harmless)


def raw_header(response: httpx2.Response, name: str) -> str | None:
    """A header as UTF-8 where it is that, else as Latin-1: many servers send names as they are."""
    values = [value for key, value in response.headers.raw if key.lower() == name.encode()]
    if not values:
        return None
    try:
        return values[0].decode("utf-8")
    except UnicodeDecodeError:
        return values[0].decode("latin-1")


def _last_part(url: httpx2.URL) -> str:
    return unquote(url.raw_path.decode("ascii").split("?", 1)[0].rsplit("/", 1)[-1], errors="replace")


def _decoded(extended: str | None) -> str | None:
    """UTF-8''na%C3%AFve.pdf; None where it is not that."""
    parts = _EXTENDED.fullmatch(extended or "")
    if parts is None or parts["charset"].lower() not in ("utf-8", "iso-8859-1"):
        return None
    try:
        return unquote_to_bytes(parts["text"]).decode(parts["charset"])
    except UnicodeDecodeError:
        return None


def _shortened(name: str) -> str:
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    suffix = PurePosixPath(name).suffix
    if len(suffix.encode()) > 32:
        suffix = ""
    stem = name[: len(name) - len(suffix)].encode()[: MAX_NAME_BYTES - len(suffix.encode())]
    return (stem.decode("utf-8", "ignore").rstrip(" .") + suffix).strip(" .")
