"""A form as a sequence of heads and bytes, pulled from the request as far as somebody asks. Owns the framing of
parts (by python-multipart's parser), what is cut off, and the sizes; must not know what becomes of a part."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.requests import ClientDisconnect

from embedmill.api.form_limits import FormError, FormLimits
from embedmill.api.part_headers import BadHeaderError, charset_of, media_type_of, parse_disposition

_PORTION_BYTES = 256 * 1024
"""A larger network chunk is parsed in portions, which bounds what waits to be read."""
_PLAIN_ENCODINGS = {b"", b"binary", b"8bit", b"7bit"}
_READ_HEADERS = {b"content-disposition", b"content-type", b"content-transfer-encoding"}


@dataclass(frozen=True)
class PartHead:
    """`file_name` as the client wrote it, None where the part is a field; `codec` of its text, None: none we take."""

    name: str
    file_name: str | None
    media_type: str | None
    codec: str | None


@dataclass
class _Headers:
    """The headers of a part as they come in."""

    name: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    values: dict[bytes, bytes] = field(default_factory=dict)
    size_bytes: int = 0


class FormStream:
    """Parts in their order: next_head(), then next_chunk() until None, and again; None after the last.

    Every method raises FormError, the same again once it did (`failure`).
    """

    def __init__(self, request_stream: AsyncIterator[bytes], boundary: bytes, limits: FormLimits) -> None:
        self._request = request_stream
        self._limits = limits
        self._total_bytes = 0
        self._unparsed = b""
        self._has_begun = False
        self._is_complete = False
        self._headers = _Headers()
        # Heads, bytes, and None at the end of each part: what one portion held, never more.
        self._waiting: deque[PartHead | bytes | None] = deque()
        self._parser = self._make_parser(boundary)
        self.failure: FormError | None = None

    async def next_head(self) -> PartHead | None:
        """The head of the next part; None when the form and the request have ended."""
        while not self._waiting:
            if not await self._pull():
                return None
        head = self._waiting.popleft()
        assert isinstance(head, PartHead)  # noqa: S101  # the part before was read to its end
        return head

    async def next_chunk(self) -> bytes | None:
        """The next bytes of this part, never empty; None at its end, again and again."""
        chunk = await self._peek()
        if chunk is not None:
            self._waiting.popleft()
        return chunk

    async def is_at_end_of_part(self) -> bool:
        return await self._peek() is None

    async def end_part(self) -> None:
        """Pass over what was not read of this part."""
        while await self.next_chunk() is not None:
            pass
        self._waiting.popleft()

    async def _peek(self) -> bytes | None:
        while not self._waiting:
            await self._pull()
        event = self._waiting[0]
        assert not isinstance(event, PartHead)  # noqa: S101  # end_part() was not called twice
        return event

    async def _pull(self) -> bool:
        """Parse one portion more; false when the request has ended, and the form with it."""
        if self.failure is not None:
            raise self.failure
        try:
            if not self._unparsed:
                self._unparsed = await self._receive()
            if not self._unparsed:
                return self._end()
            portion = self._unparsed[:_PORTION_BYTES]
            self._unparsed = self._unparsed[_PORTION_BYTES:]
            self._parse(portion)
        except FormError as failure:
            self.failure = failure
            raise
        return True

    async def _receive(self) -> bytes:
        """The next chunk that is not empty, b"" at the end of the request."""
        try:
            async for chunk in self._request:
                self._total_bytes += len(chunk)
                most = self._limits.max_total_bytes
                if most is not None and self._total_bytes > most:
                    raise FormError("form_too_large", f"a form may have {most:,} bytes in all", status=413)
                if chunk:
                    return chunk
        except ClientDisconnect as gone:
            raise _truncated() from gone
        return b""

    def _end(self) -> bool:
        if not self._is_complete:
            raise _truncated()
        return False

    def _parse(self, portion: bytes) -> None:
        if not self._has_begun:
            # The parser takes these as well, but not alike in one chunk and in several.
            portion = portion.lstrip(b"\r\n")
            self._has_begun = bool(portion)
        try:
            self._parser.write(portion)
        except FormParserError as error:
            raise FormError(
                "malformed_form", "the body is not a form of the boundary that its header names"
            ) from error

    def _make_parser(self, boundary: bytes) -> MultipartParser:
        # Its own limits are set where they are reached only after ours, whose errors say more.
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": lambda: self._waiting.append(None),
                "on_end": self._complete,
            },
            max_header_count=self._limits.max_header_bytes,
            max_header_size=self._limits.max_header_bytes + _PORTION_BYTES,
        )

    def _begin_part(self) -> None:
        self._headers = _Headers()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._headers.name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._headers.value += data[start:end]

    def _count_header(self, size_bytes: int) -> None:
        self._headers.size_bytes += size_bytes
        if self._headers.size_bytes > self._limits.max_header_bytes:
            raise FormError(
                "headers_too_large",
                f"the headers of a part have more than {self._limits.max_header_bytes:,} bytes: shorten the file name",
                status=413,
            )

    def _end_header(self) -> None:
        name, value = bytes(self._headers.name).lower(), bytes(self._headers.value)
        self._headers.name.clear()
        self._headers.value.clear()
        if name in self._headers.values:
            raise FormError("malformed_form", "a part has one of its headers twice")
        if name in _READ_HEADERS:
            self._headers.values[name] = value

    def _end_headers(self) -> None:
        values = self._headers.values
        encoding = values.get(b"content-transfer-encoding", b"").strip().lower()
        if encoding not in _PLAIN_ENCODINGS:
            raise FormError(
                "unsupported_encoding", "a part has a Content-Transfer-Encoding: send its bytes as they are"
            )
        try:
            disposition = parse_disposition(values.get(b"content-disposition", b""))
        except BadHeaderError as error:
            raise FormError(
                "malformed_form", 'a part has no usable header Content-Disposition: form-data; name="..."'
            ) from error
        content_type = values.get(b"content-type", b"").decode("latin-1")
        self._waiting.append(
            PartHead(
                disposition.name, disposition.file_name, media_type_of(content_type), charset_of(content_type)
            )
        )

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if end > start:
            self._waiting.append(data[start:end])

    def _complete(self) -> None:
        self._is_complete = True


def _truncated() -> FormError:
    return FormError("truncated_form", "the form breaks off before its end: send it again")
