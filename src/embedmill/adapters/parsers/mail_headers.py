"""Knows which headers of a message a reader would miss, and turns their encoded words into text. Must not
look into the body."""

from __future__ import annotations

import re
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message

from embedmill.adapters.parsers.decoding import decode
from embedmill.adapters.parsers.text import one_line

TOLD = ("From", "To", "Cc", "Date", "Subject")
"""What stands above the text of a message; identifiers, routes and signatures are noise to a search."""

_MAX_HEADER_CHARS = 1000
_MARKDOWN_HEADER = re.compile(r"\*\*([A-Za-z][A-Za-z0-9-]*)\*\*: .*")


def header_value(message: Message, name: str) -> str | None:
    """The header as people read it, on one line; several of the same name joined. None without any."""
    values = [_decoded(str(value)) for key, value in message.raw_items() if key.lower() == name.lower()]
    return one_line(", ".join(values), _MAX_HEADER_CHARS)


def told_headers(message: Message) -> str:
    """The headers worth reading, one `Name: value` a line."""
    values = ((name, header_value(message, name)) for name in TOLD)
    return "\n".join(f"{name}: {value}" for name, value in values if value)


def without_technical_headers(markdown: str) -> str:
    """xberg's rendering of a message, `**Name**: value` paragraphs above the body, with the told ones left."""
    told = {name.lower() for name in TOLD}
    lines = markdown.lstrip("\n").split("\n")
    kept: list[str] = []
    for at, line in enumerate(lines):
        match = _MARKDOWN_HEADER.fullmatch(line)
        if match is None and line.strip():
            return "\n".join([*kept, "", *lines[at:]])
        if match is not None and match.group(1).lower() in told:
            kept.append(line.replace("**", "", 2))
    return "\n".join(kept)


def _decoded(value: str) -> str:
    try:
        # Bytes beyond ASCII, which a header should not hold, come as lone surrogates.
        value.encode("ascii")
    except UnicodeEncodeError:
        value = decode(value.encode("utf-8", "surrogateescape"))
    if "=?" not in value:
        return value
    try:
        return str(make_header(decode_header(value)))
    except (MessageError, LookupError, ValueError):
        return value  # an encoding that nobody knows: better the encoded words than none
