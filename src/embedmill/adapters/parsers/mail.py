"""Reads e-mail: the headers that people read, then the text as it was written. Owns the choice between the
versions of a body; HTML bodies are read as any other page, attachments are named but not opened."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from email import message_from_bytes
from email.errors import MessageError
from email.message import Message
from email.utils import getaddresses

import msgspec

from embedmill.adapters.parsers import media_types as types
from embedmill.adapters.parsers.decoding import decode, decode_html
from embedmill.adapters.parsers.files import read_bytes
from embedmill.adapters.parsers.mail_headers import header_value, told_headers
from embedmill.adapters.parsers.office import OfficeParser
from embedmill.adapters.parsers.text import TextBuilder, document
from embedmill.core.documents import ParsedDocument
from embedmill.errors import DocumentError

_BODY_TYPES = ("text/plain", "text/html")
_MAX_LEVELS = 100


class _Body(msgspec.Struct, frozen=True):
    """A piece of the text, or the name of an attachment."""

    text: str = ""
    is_markdown: bool = False
    attachment: str | None = None


class MailParser:
    def __init__(self, max_text_chars: int, office: OfficeParser) -> None:
        self._max_text_chars = max_text_chars
        self._office = office

    def load(self) -> None:
        self._office.load()

    def parse(self, path: str, media_type: str) -> ParsedDocument:
        """Raises DocumentError: `corrupt`, `too_large`."""
        try:
            message = message_from_bytes(read_bytes(path))
            bodies = list(self._bodies(message, 0))
        except RecursionError as error:
            raise _too_deep() from error
        builder = TextBuilder(self._max_text_chars)
        builder.add(told_headers(message))
        for body in bodies:
            builder.add(body.text)
        attachments = ", ".join(body.attachment for body in bodies if body.attachment)
        if attachments:
            builder.add(f"Attachments: {attachments}")
        return document(
            builder.text(),
            types.EML,
            title=header_value(message, "Subject") or "",
            is_markdown=any(body.is_markdown for body in bodies),
            metadata={
                "from": _addresses(message, "From"),
                "to": _addresses(message, "To"),
                "cc": _addresses(message, "Cc"),
                "date": header_value(message, "Date"),
                "attachments": attachments,
            },
        )

    def _bodies(self, part: Message, level: int) -> Iterator[_Body]:
        if level > _MAX_LEVELS:
            raise _too_deep()
        kind = part.get_content_type()
        if kind == "multipart/alternative":
            yield from self._best([list(self._bodies(each, level + 1)) for each in _parts(part)])
        elif part.is_multipart():
            for each in _parts(part):
                if kind == "message/rfc822":
                    yield _Body(told_headers(each))
                yield from self._bodies(each, level + 1)
        elif kind not in _BODY_TYPES or part.get_content_disposition() == "attachment":
            yield _Body(attachment=_name(part))
        else:
            yield self._body(part, kind)

    def _best(self, versions: list[list[_Body]]) -> list[_Body]:
        """The richest version that says anything: the later is the better, by the standard; a calendar entry
        or a picture says nothing to us."""
        speaking = [version for version in versions if any(body.text.strip() for body in version)]
        marked = [version for version in speaking if any(body.is_markdown for body in version)]
        return next(iter(marked[-1:] or speaking[-1:] or versions[-1:]), [])

    def _body(self, part: Message, kind: str) -> _Body:
        payload = part.get_payload(decode=True)
        data = payload if isinstance(payload, bytes) else b""
        try:
            text = _text(data, _charset(part), is_html=kind == "text/html")
        except DocumentError:
            return _Body(attachment=_name(part))  # it says that it is text, but holds binary data
        if kind == "text/html":
            return _Body(self._office.markdown_of_html(text) if text.strip() else "", is_markdown=True)
        return _Body(text)


def _parts(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [each for each in payload if isinstance(each, Message)] if isinstance(payload, list) else []


def _charset(part: Message) -> str | None:
    try:
        return part.get_content_charset()
    except (MessageError, LookupError, ValueError, TypeError):
        return None


def _text(data: bytes, charset: str | None, *, is_html: bool) -> str:
    """The text in the encoding that the part names, where that fits; else in the likeliest."""
    if charset:
        try:
            return codecs.lookup(charset).decode(data, "strict")[0].lstrip("\ufeff")
        except (LookupError, ValueError, TypeError, AttributeError):
            pass  # a name that nobody knows, a lie, or a codec that is none of text: the bytes decide
    return decode_html(data) if is_html else decode(data)


def _name(part: Message) -> str:
    try:
        name = part.get_filename()
    except (MessageError, LookupError, ValueError, TypeError):
        name = None
    return " ".join((name or part.get_content_type()).split())[:200]


def _addresses(message: Message, name: str) -> str:
    value = header_value(message, name)
    return ", ".join(address for _, address in getaddresses([value]) if address) if value else ""


def _too_deep() -> DocumentError:
    return DocumentError("corrupt", "The message nests its parts too deep to be a real one.")
